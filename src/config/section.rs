//! One table of proxy.toml while it is read, key by key.
//!
//! Every key is asked for exactly once, with its default; what was asked for is what is known. So a key that nobody
//! asked for is an error, and the list of keys can't differ from what is read.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::{FileConfig, nearest, wrong_type};
use super::{Error, Setting, pem, units};

/// One table of the file while it is read.
pub(super) struct Section<'f> {
    file: &'f FileConfig<'f>,
    name: &'static str,
    line: Option<usize>,
    table: Option<&'f DeTable<'f>>,
    read: Vec<Setting>,
}

impl<'f> Section<'f> {
    /// A table of the file; none stands for an empty one. `line` is the one it begins in.
    pub(super) fn new(
        file: &'f FileConfig<'f>,
        name: &'static str,
        line: Option<usize>,
        table: Option<&'f DeTable<'f>>,
    ) -> Self {
        Self { file, name, line, table, read: Vec::new() }
    }

    /// A string.
    pub(super) fn text(&mut self, key: &str, default: &str) -> Result<String, Error> {
        Ok(self.optional_text(key, default)?.unwrap_or_else(|| default.to_owned()))
    }

    /// A string that says something.
    pub(super) fn name(&mut self, key: &str, default: &str) -> Result<String, Error> {
        let text = self.text(key, default)?;
        if text.is_empty() {
            return Err(self.error(key, "must not be empty"));
        }
        Ok(text)
    }

    /// A string, if it is written; `unwritten` says what stands for it otherwise.
    pub(super) fn optional_text(&mut self, key: &str, unwritten: &str) -> Result<Option<String>, Error> {
        let text = match self.value(key) {
            None => None,
            Some(value) => {
                let text = value.as_str().ok_or_else(|| self.error(key, wrong_type("a string", value)))?;
                Some(text.to_owned())
            }
        };
        self.note(key, text.as_deref().unwrap_or(unwritten), unwritten);
        Ok(text)
    }

    /// A string that is never shown again.
    pub(super) fn secret(&mut self, key: &str) -> Result<Option<String>, Error> {
        let text = self.optional_text(key, "");
        if let Some(setting) = self.read.last_mut() {
            "***".clone_into(&mut setting.value);
        }
        text
    }

    /// A whole number within `range`.
    pub(super) fn number<T: TryFrom<u64>>(
        &mut self,
        key: &str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Result<T, Error> {
        let number = match self.value(key) {
            None => default,
            Some(value) => {
                let integer =
                    value.as_integer().ok_or_else(|| self.error(key, wrong_type("a whole number", value)))?;
                let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
                number.filter(|number| range.contains(number)).ok_or_else(|| self.out_of(key, &range))?
            }
        };
        self.note(key, &number.to_string(), &default.to_string());
        T::try_from(number).map_err(|_too_big| self.out_of(key, &range))
    }

    /// A whole number within `range`, if it is written; `unwritten` says what holds otherwise.
    pub(super) fn optional_number<T: TryFrom<u64>>(
        &mut self,
        key: &str,
        unwritten: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<T>, Error> {
        if self.value(key).is_none() {
            self.note(key, unwritten, unwritten);
            return Ok(None);
        }
        self.number(key, *range.start(), range).map(Some)
    }

    /// A duration within `range`.
    pub(super) fn duration(
        &mut self,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Result<Duration, Error> {
        let written = self.written_duration(key, range)?;
        let shown = units::show_duration(default);
        self.note(key, &written.map_or_else(|| shown.clone(), units::show_duration), &shown);
        Ok(written.unwrap_or(default))
    }

    /// A duration within `range`, if it is written; `unwritten` says what holds otherwise.
    pub(super) fn optional_duration(
        &mut self,
        key: &str,
        unwritten: &str,
        range: RangeInclusive<Duration>,
    ) -> Result<Option<Duration>, Error> {
        let written = self.written_duration(key, range)?;
        self.note(key, &written.map_or_else(|| unwritten.to_owned(), units::show_duration), unwritten);
        Ok(written)
    }

    /// A size in bytes within `range`.
    pub(super) fn size<T: TryFrom<u64>>(
        &mut self,
        key: &str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Result<T, Error> {
        let shown = units::show_size(*range.start())..=units::show_size(*range.end());
        let size = match self.value(key) {
            None => default,
            Some(value) => {
                let size = match value {
                    DeValue::String(text) => units::size(text),
                    DeValue::Integer(integer) => units::size(&integer.to_string()),
                    other => Err(wrong_type("a size such as \"16MiB\"", other)),
                };
                let size = size.map_err(|why| self.error(key, why))?;
                if !range.contains(&size) {
                    return Err(self.out_of(key, &shown));
                }
                size
            }
        };
        self.note(key, &units::show_size(size), &units::show_size(default));
        T::try_from(size).map_err(|_too_big| self.out_of(key, &shown))
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &str,
        default: &str,
        words: &[(&str, T)],
    ) -> Result<T, Error> {
        self.optional_choice(key, default, words)?
            .or_else(|| words.iter().find(|(word, _)| *word == default).map(|(_, meaning)| *meaning))
            .ok_or_else(|| self.error(key, "has no default"))
    }

    /// One of a few words, if it is written.
    pub(super) fn optional_choice<T: Copy>(
        &mut self,
        key: &str,
        unwritten: &str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, Error> {
        let Some(text) = self.optional_text(key, unwritten)? else { return Ok(None) };
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*meaning));
        }
        let all: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        Err(self.error(key, format!("{text:?} is none of {}", all.join(", "))))
    }

    /// A list of strings, each of which says something and none twice; a lone string is a list of one.
    pub(super) fn texts(&mut self, key: &str, default: &[&str]) -> Result<Vec<String>, Error> {
        let texts: Vec<String> = match self.value(key) {
            None => default.iter().map(|&text| text.to_owned()).collect(),
            Some(DeValue::String(text)) => vec![text.to_string()],
            Some(DeValue::Array(array)) => {
                let items = array.iter().map(|item| {
                    let text = item.get_ref().as_str().map(str::to_owned);
                    text.ok_or_else(|| self.error(key, wrong_type("a list of strings", item.get_ref())))
                });
                items.collect::<Result<_, _>>()?
            }
            Some(other) => return Err(self.error(key, wrong_type("a list of strings", other))),
        };
        for (at, text) in texts.iter().enumerate() {
            if text.is_empty() {
                return Err(self.error(key, "an entry is empty"));
            }
            if texts[..at].contains(text) {
                return Err(self.error(key, format!("{text:?} stands there twice")));
            }
        }
        self.note(key, &texts.join(", "), &default.join(", "));
        Ok(texts)
    }

    /// A table of names to plain values, each as text. `a.b = 1` may be written with or without quotes around the name.
    pub(super) fn values(&mut self, key: &str) -> Result<BTreeMap<String, String>, Error> {
        let mut values = BTreeMap::new();
        if let Some(value) = self.value(key) {
            let table = value.as_table().ok_or_else(|| self.error(key, wrong_type("a table", value)))?;
            self.flatten(key, "", table, &mut values)?;
        }
        let shown: Vec<_> = values.iter().map(|(name, value)| format!("{name}={value}")).collect();
        self.note(key, &shown.join(", "), "");
        Ok(values)
    }

    /// A file, relative to the folder that proxy.toml is in; it is opened, so that it is there.
    pub(super) fn file(&mut self, key: &str) -> Result<Option<PathBuf>, Error> {
        let Some(written) = self.optional_text(key, "")? else { return Ok(None) };
        if written.is_empty() {
            return Err(self.error(key, "must not be empty; leave the line out for none"));
        }
        let folder = self.file.path().parent().unwrap_or_else(|| Path::new(""));
        let path = folder.join(written);
        pem::read(&path).map_err(|why| self.error(key, why))?;
        Ok(Some(path))
    }

    /// A file that holds one secret; checked to hold one.
    pub(super) fn secret_file(&mut self, key: &str) -> Result<Option<PathBuf>, Error> {
        let Some(path) = self.file(key)? else { return Ok(None) };
        let bytes = pem::read(&path).map_err(|why| self.error(key, why))?;
        if bytes.trim_ascii().is_empty() {
            return Err(self.error(key, format!("{} is empty", path.display())));
        }
        Ok(Some(path))
    }

    /// A certificate and its key: both or neither, and they belong together.
    pub(super) fn key_pair(
        &mut self,
        certificate: &str,
        key: &str,
    ) -> Result<Option<(PathBuf, PathBuf)>, Error> {
        match (self.file(certificate)?, self.file(key)?) {
            (None, None) => Ok(None),
            (Some(chain), Some(private)) => {
                pem::certificates(&chain).map_err(|why| self.error(certificate, why))?;
                pem::check_key(&private).map_err(|why| self.error(key, why))?;
                pem::check_pair(&chain, &private).map_err(|why| self.error(key, why))?;
                Ok(Some((chain, private)))
            }
            (Some(_), None) => Err(self.error(certificate, format!("needs {}.{key} beside it", self.name))),
            (None, Some(_)) => Err(self.error(key, format!("needs {}.{certificate} beside it", self.name))),
        }
    }

    /// A file of CA certificates.
    pub(super) fn ca(&mut self, key: &str) -> Result<Option<PathBuf>, Error> {
        let path = self.file(key)?;
        if let Some(path) = &path {
            pem::check_ca(path).map_err(|why| self.error(key, why))?;
        }
        Ok(path)
    }

    /// An error about a key: at its line, or where it is missing, at its section's.
    pub(super) fn error(&self, key: &str, message: impl Into<String>) -> Error {
        let written = self.table.and_then(|table| table.get_key_value(key));
        let line = written.map(|(name, _)| self.file.line(name)).or(self.line);
        self.file.error(line, &self.full(key), message)
    }

    /// The line that it begins in.
    pub(super) fn line(&self) -> usize {
        self.line.unwrap_or_default()
    }

    /// What was read; every key's value and default.
    pub(super) fn read(&self) -> &[Setting] {
        &self.read
    }

    /// Refuses keys that nobody asked for. `all` are the settings of all sections, to find the key that was meant.
    ///
    /// # Errors
    /// The first of them, with the nearest known one.
    pub(super) fn refuse_unknown(&self, all: &[Setting]) -> Result<(), Error> {
        for key in self.table.into_iter().flatten().map(|(key, _)| key) {
            let name: &str = key.get_ref();
            let full = self.full(name);
            if self.read.iter().any(|setting| setting.name == full) {
                continue;
            }
            let elsewhere =
                all.iter().find(|setting| setting.name.split_once('.').is_some_and(|(_, key)| key == name));
            let hint = match elsewhere {
                Some(setting) => format!("; did you mean {}?", setting.name),
                None => nearest(&full, self.read.iter().map(|setting| &*setting.name)),
            };
            return Err(self.file.error(Some(self.file.line(key)), &full, format!("unknown key{hint}")));
        }
        Ok(())
    }

    fn value(&self, key: &str) -> Option<&'f DeValue<'f>> {
        self.table?.get(key).map(Spanned::get_ref)
    }

    fn written_duration(
        &self,
        key: &str,
        range: RangeInclusive<Duration>,
    ) -> Result<Option<Duration>, Error> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let expected = "a duration such as \"5s\"";
        let text = value.as_str().ok_or_else(|| self.error(key, wrong_type(expected, value)))?;
        let duration = units::duration(text).map_err(|why| self.error(key, why))?;
        if !range.contains(&duration) {
            let (low, high) = range.into_inner();
            return Err(self.out_of(key, &(units::show_duration(low)..=units::show_duration(high))));
        }
        Ok(Some(duration))
    }

    fn flatten(
        &self,
        key: &str,
        before: &str,
        table: &DeTable<'_>,
        values: &mut BTreeMap<String, String>,
    ) -> Result<(), Error> {
        for (name, value) in table {
            let name = format!("{before}{}", name.get_ref());
            let text = match value.get_ref() {
                DeValue::Table(inner) => {
                    self.flatten(key, &format!("{name}."), inner, values)?;
                    continue;
                }
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(integer) => integer.to_string(),
                DeValue::Float(float) => float.as_str().to_owned(),
                DeValue::Boolean(flag) => (if *flag { "on" } else { "off" }).to_owned(),
                other => {
                    let line = Some(self.file.line(value));
                    let full = format!("{}.{name}", self.full(key));
                    return Err(self.file.error(line, &full, wrong_type("a plain value", other)));
                }
            };
            if values.insert(name.clone(), text).is_some() {
                return Err(self.error(key, format!("{name} stands there twice")));
            }
        }
        Ok(())
    }

    fn out_of<T: Display>(&self, key: &str, range: &RangeInclusive<T>) -> Error {
        self.error(key, format!("must be from {} to {}", range.start(), range.end()))
    }

    fn note(&mut self, key: &str, value: &str, default: &str) {
        let name = self.full(key);
        self.read.push(Setting { name, value: value.to_owned(), default: default.to_owned() });
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }
}
