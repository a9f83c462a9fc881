//! EXPLAIN, whose options say whether the statement runs, and COPY, whose direction says whether it reads.

use super::body::Calls;
use super::classify::Statements;
use super::keywords::Keyword as K;
use super::lexer::Kind;
use super::{Class, CopyDirection, Effects};

#[derive(Default)]
struct Options {
    analyze: bool,
    route: bool,
}

impl Statements<'_, '_> {
    pub(super) fn explain(&mut self) {
        self.cursor.advance();
        // An option may be a number or a string.
        self.found.by_value = true;
        let mut options = Options::default();
        let query = matches!(self.cursor.next_keyword, Some(K::Select | K::With | K::Values | K::Table));
        if self.cursor.token.kind == Kind::Open && !query && self.cursor.next.kind != Kind::Open {
            self.options(&mut options);
        } else {
            while matches!(self.cursor.keyword, Some(K::Analyze | K::Analyse | K::Verbose)) {
                options.analyze |= !self.cursor.is(K::Verbose);
                self.cursor.advance();
            }
        }
        if options.route {
            self.found.session("EXPLAIN (ROUTE)");
            self.found.explain_route = Some(self.cursor.token.start);
            return self.body(Calls::Ignored);
        }
        self.explained(options.analyze);
    }

    fn explained(&mut self, runs: bool) {
        match (self.cursor.keyword, self.cursor.token.kind) {
            (Some(K::Execute), _) => self.statement(),
            (
                Some(
                    K::Select
                    | K::With
                    | K::Values
                    | K::Table
                    | K::Insert
                    | K::Update
                    | K::Delete
                    | K::Merge
                    | K::Declare
                    | K::Create
                    | K::Refresh,
                ),
                _,
            )
            | (None, Kind::Open) => {
                if runs {
                    return self.statement();
                }
                // a standby makes no temporary schema, not even to plan
                let temporary =
                    matches!(self.cursor.next_keyword, Some(K::Temp | K::Temporary | K::Local | K::Global));
                if temporary && self.cursor.is(K::Create) {
                    self.found.write("EXPLAIN CREATE TEMP");
                }
                self.found.raise(Class::Read, || "EXPLAIN".into());
                self.body(Calls::Ignored);
            }
            _ => {
                self.found.write("EXPLAIN");
                self.body(Calls::Noted);
            }
        }
    }

    /// `(name [value], …)`: of an option that comes twice, the last counts.
    fn options(&mut self, options: &mut Options) {
        self.cursor.advance();
        loop {
            let name = self.cursor.token;
            // a name with Unicode escapes may be any option
            let name = match name.kind {
                Kind::UnicodeQuoted => Some(Box::from(b"analyze".as_slice())),
                _ => self.cursor.name(name),
            };
            self.cursor.advance();
            let (value, lone) = (self.cursor.token, self.ends_option());
            let on = lone || !self.is_false(value);
            match name.as_deref() {
                Some(b"analyze" | b"analyse") => options.analyze = on,
                Some(b"route") => options.route = on,
                _ => {}
            }
            while !self.ends_option() {
                self.cursor.advance();
            }
            if self.cursor.token.kind != Kind::Comma {
                break;
            }
            self.cursor.advance();
        }
        if self.cursor.token.kind == Kind::Close {
            self.cursor.advance();
        }
    }

    fn ends_option(&self) -> bool {
        self.cursor.at_end() || matches!(self.cursor.token.kind, Kind::Comma | Kind::Close)
    }

    /// A value that PostgreSQL's `defGetBoolean` takes for false, written plainly.
    fn is_false(&self, value: super::lexer::Token) -> bool {
        let text = self.cursor.bytes(value);
        let word = match value.kind {
            Kind::Number => return text == b"0",
            Kind::String => text.get(1..text.len() - 1).unwrap_or_default(),
            _ => text,
        };
        word.eq_ignore_ascii_case(b"false") || word.eq_ignore_ascii_case(b"off")
    }

    pub(super) fn copy(&mut self) {
        self.cursor.advance();
        self.found.raise(Class::Read, || "COPY".into());
        if self.cursor.token.kind == Kind::Open {
            self.parenthesis(Calls::Judged);
        }
        while !self.cursor.at_end() && !matches!(self.cursor.keyword, Some(K::To | K::From)) {
            if matches!(self.cursor.token.kind, Kind::Word | Kind::Quoted) {
                self.relation_name();
            }
            self.cursor.advance();
        }
        let from = self.cursor.is(K::From);
        self.cursor.advance();
        // PostgreSQL takes either of STDIN and STDOUT for both directions
        let to_client = matches!(self.cursor.keyword, Some(K::Stdin | K::Stdout));
        match (from, to_client) {
            (true, _) => {
                self.found.write("COPY FROM");
                self.found.effects |= Effects::NEXTVAL;
                self.found.copy = to_client.then_some(CopyDirection::In).or(self.found.copy);
                self.body(Calls::Judged);
            }
            (false, true) => {
                self.found.copy = Some(CopyDirection::Out);
                self.body(Calls::Ignored);
            }
            (false, false) => {
                self.found.write("COPY TO a file");
                self.body(Calls::Noted);
            }
        }
    }
}
