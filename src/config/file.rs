//! proxy.toml as it is written: a tree that knows its lines.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Error;
use super::section::Section;

/// A whole file, parsed but not understood.
pub(super) struct FileConfig<'t> {
    path: &'t Path,
    text: &'t str,
    root: DeTable<'t>,
}

impl<'t> FileConfig<'t> {
    /// Parses TOML.
    ///
    /// # Errors
    /// The first syntax error, with its line.
    pub(super) fn parse(text: &'t str, path: &'t Path) -> Result<Self, Error> {
        let root = DeTable::parse(text).map_err(|why| {
            let line = why.span().map(|span| line_of(text, span.start));
            Error::new(path, line, None, format!("not TOML: {}", why.message()))
        })?;
        Ok(Self { path, text, root: root.into_inner() })
    }

    /// The table of this name; missing, it is as if empty.
    ///
    /// # Errors
    /// The name stands for something else than a table.
    pub(super) fn section(&self, name: &'static str) -> Result<Section<'_>, Error> {
        let Some((key, value)) = self.root.get_key_value(name) else {
            return Ok(Section::new(self, name, None, None));
        };
        let line = Some(self.line(key));
        let Some(table) = value.get_ref().as_table() else {
            return Err(self.error(line, name, wrong_type("a table", value.get_ref())));
        };
        Ok(Section::new(self, name, line, Some(table)))
    }

    /// The tables of an array of tables, `[[name]]`.
    ///
    /// # Errors
    /// The name stands for something else.
    pub(super) fn sections(&self, name: &'static str) -> Result<Vec<Section<'_>>, Error> {
        let Some((key, value)) = self.root.get_key_value(name) else { return Ok(Vec::new()) };
        let what = || format!("expected [[{name}]], an array of tables");
        let array = value.get_ref().as_array();
        let array = array.ok_or_else(|| self.error(Some(self.line(key)), name, what()))?;
        let tables = array.iter().map(|item| {
            let line = Some(self.line(item));
            let table = item.get_ref().as_table().ok_or_else(|| self.error(line, name, what()))?;
            Ok(Section::new(self, name, line, Some(table)))
        });
        tables.collect()
    }

    /// Refuses sections that are none of `known`.
    ///
    /// # Errors
    /// The first of them, with the nearest known one.
    pub(super) fn refuse_unknown_sections(&self, known: &[&'static str]) -> Result<(), Error> {
        for key in self.root.keys() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                let hint = nearest(name, known.iter().copied());
                return Err(self.error(Some(self.line(key)), name, format!("unknown section{hint}")));
            }
        }
        Ok(())
    }

    /// The file's name, as it was given.
    pub(super) fn path(&self) -> &Path {
        self.path
    }

    /// The line that something begins in, from 1.
    pub(super) fn line<T>(&self, spanned: &Spanned<T>) -> usize {
        line_of(self.text, spanned.span().start)
    }

    /// An error at a line, about a key by its full name.
    pub(super) fn error(&self, line: Option<usize>, key: &str, message: impl Into<String>) -> Error {
        Error::new(self.path, line, Some(key.to_owned()), message)
    }
}

fn line_of(text: &str, at: usize) -> usize {
    let end = at.min(text.len());
    memchr::memchr_iter(b'\n', &text.as_bytes()[..end]).count() + 1
}

/// What was expected, and what kind of value was found; never the value.
pub(super) fn wrong_type(expected: &str, found: &DeValue<'_>) -> String {
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    format!("expected {expected}, found {found}")
}

/// A question for the most similar known name.
pub(super) fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    let best = known.min_by_key(|candidate| strsim::damerau_levenshtein(name, candidate));
    best.map(|best| format!("; did you mean {best}?")).unwrap_or_default()
}
