//! The inside of a statement, token by token: what in it writes, locks, calls or creates.

use super::classify::Statements;
use super::keywords::{Category, Keyword as K};
use super::lexer::Kind;
use super::{Class, Effects, names};

/// How far the calls and clauses of a statement count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Calls {
    /// The statement runs: everything counts.
    Judged,
    /// It is a write anyway and its parentheses need not be calls: only the effects of known functions count.
    Noted,
    /// The same for CREATE FUNCTION, whose body may hold semicolons.
    Routine,
    /// The statement doesn't run: nothing counts but vector operators.
    Ignored,
}

/// What stood before a token, as far as it tells a call from a list of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Start,
    /// Something that a call can't follow directly: a value, a name.
    Operand,
    /// A closing parenthesis that a call can't follow.
    Close,
    Keyword(K),
    Open,
    Comma,
    Dot,
    Cast,
    Other,
}

/// Where the scan of `current_setting('…')` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Argument {
    None,
    Parenthesis,
    Name,
    End,
}

struct Scan {
    calls: Calls,
    depth: u32,
    before: Before,
    /// What stood before the first part of a qualified name.
    before_chain: Before,
    /// One bit a depth: a WITH clause's list is being read there.
    with_list: u64,
    /// One bit a depth: a WITH clause was begun there.
    with_seen: u64,
    /// One bit a depth: a call may follow the closing parenthesis (`DISTINCT ON (…)`, `OPERATOR(…)`).
    call_follows: u64,
    argument: Argument,
    settings: SettingsView,
    /// Inside GROUP BY, where ROLLUP is no function.
    grouping: bool,
    update: bool,
    /// BEGIN ATOMIC and CASE that are open in a routine's body.
    blocks: u32,
    /// A statement that defines something: what it calls may run now.
    runs: bool,
}

/// What is known of a query that may read `pg_settings`.
#[derive(Default)]
struct SettingsView {
    read: bool,
    literals: u32,
    /// A literal before the view, one that may be a member's setting, or a parameter.
    doubtful: bool,
}

/// Operators of pgvector that order by distance.
const VECTOR_OPERATORS: [&[u8]; 6] = [b"<->", b"<=>", b"<#>", b"<+>", b"<~>", b"<%>"];

impl Statements<'_, '_> {
    /// Reads on to the end of the statement.
    pub(super) fn body(&mut self, calls: Calls) {
        self.scan(calls, false);
    }

    /// Reads the parenthesis that begins here, and stands behind it.
    pub(super) fn parenthesis(&mut self, calls: Calls) {
        self.scan(calls, true);
    }

    fn scan(&mut self, calls: Calls, one_parenthesis: bool) {
        let mut scan = Scan {
            calls,
            depth: 0,
            before: Before::Start,
            before_chain: Before::Start,
            with_list: 0,
            with_seen: 0,
            call_follows: 0,
            argument: Argument::None,
            settings: SettingsView::default(),
            grouping: false,
            update: false,
            blocks: 0,
            runs: false,
        };
        let before = self.found.effects;
        loop {
            match self.cursor.token.kind {
                Kind::End => break,
                Kind::Semicolon if scan.depth == 0 && scan.blocks == 0 => break,
                _ => self.step(&mut scan),
            }
            self.cursor.advance();
            if one_parenthesis && scan.depth == 0 {
                break;
            }
        }
        self.conclude(&scan);
        if calls == Calls::Noted && before.contains(Effects::DDL) && !scan.runs {
            self.found.effects.defines_currval(before);
        }
    }

    fn step(&mut self, scan: &mut Scan) {
        if scan.argument != Argument::None {
            self.setting_argument(scan);
        }
        scan.before = match self.cursor.token.kind {
            Kind::Word | Kind::Quoted => self.word(scan),
            // an alias is none of the names that count
            Kind::UnicodeQuoted if scan.before == Before::Keyword(K::As) => Before::Operand,
            Kind::UnicodeQuoted => {
                self.write_unless_ignored(scan, "U& name");
                Before::Operand
            }
            Kind::Operator => {
                let token = self.cursor.token;
                let bytes = self.cursor.bytes(token);
                self.found.vector |= bytes.len() == 3 && VECTOR_OPERATORS.contains(&bytes);
                if self.functions.primary_operator(bytes) {
                    let operator = String::from_utf8_lossy(bytes);
                    self.write_unless_ignored(
                        scan,
                        &format!("operator {operator} is on a function for the primary"),
                    );
                }
                Before::Other
            }
            Kind::Open => scan.open(),
            Kind::Close => scan.close(),
            Kind::Comma => Before::Comma,
            Kind::Dot => Before::Dot,
            Kind::Cast => Before::Cast,
            Kind::String | Kind::EscapeString | Kind::UnicodeString | Kind::DollarString => {
                self.literal(scan);
                Before::Operand
            }
            Kind::Param => {
                scan.settings.doubtful = true;
                Before::Operand
            }
            Kind::Number | Kind::BitString => Before::Operand,
            // Inside of a parenthesis only a rule and a routine may have one, and they write.
            Kind::Semicolon => {
                self.found.write("syntax");
                Before::Other
            }
            Kind::Bracket | Kind::Punctuation | Kind::Other | Kind::Unterminated | Kind::End => Before::Other,
        };
    }

    fn write_unless_ignored(&mut self, scan: &Scan, reason: &str) {
        if scan.calls != Calls::Ignored {
            self.found.write(reason);
        }
    }

    fn word(&mut self, scan: &mut Scan) -> Before {
        let qualified = scan.before == Before::Dot;
        if !qualified {
            scan.before_chain = scan.before;
        }
        match self.cursor.keyword {
            Some(keyword) if !qualified => self.keyword(scan, keyword),
            _ => {
                self.name(scan);
                Before::Operand
            }
        }
    }

    fn name(&mut self, scan: &mut Scan) {
        let token = self.cursor.token;
        if scan.calls != Calls::Ignored {
            let first = self.cursor.bytes(token).iter().find(|byte| **byte != b'"');
            let telling = matches!(first, Some(b'p' | b'P' | b'i' | b'I' | b'l' | b'L'));
            if telling || self.functions.has_relations() {
                self.relation(scan);
            }
        } else if self.functions.has_relations() && self.found.explain_route.is_none() {
            self.planned(token);
        }
        if self.cursor.next.kind == Kind::Open && scan.may_be_call() {
            self.call(scan, false);
        }
    }

    fn relation(&mut self, scan: &mut Scan) {
        if self.relation_name() {
            scan.settings.read = true;
            self.found.by_value = true;
            scan.settings.doubtful |= scan.settings.literals > 0;
        }
    }

    /// A keyword that is no qualified name's part.
    fn keyword(&mut self, scan: &mut Scan, keyword: K) -> Before {
        let aliased = scan.before == Before::Keyword(K::As);
        // A query, or a column that is added or changed, whose rows are filled now.
        scan.runs |= matches!(keyword, K::Select | K::Values | K::Add | K::Using);
        if !aliased && scan.calls != Calls::Ignored {
            self.clause(scan, keyword);
        }
        if aliased && keyword == K::Not {
            return scan.before; // AS NOT MATERIALIZED (
        }
        scan.follow_with(keyword, aliased);
        scan.follow_grouping(keyword);
        if matches!(scan.calls, Calls::Routine) {
            scan.count_blocks(keyword, self.cursor.next_keyword);
        }
        if self.cursor.next.kind == Kind::Open
            && matches!(keyword.category(), Category::U | Category::T)
            && scan.may_be_call()
            && (!scan.takes_parenthesis(keyword) || self.functions.knows(keyword))
        {
            self.call(scan, true);
        }
        if is_value(keyword) { Before::Operand } else { Before::Keyword(keyword) }
    }

    /// Keywords that make a statement more than a read.
    fn clause(&mut self, scan: &mut Scan, keyword: K) {
        match keyword {
            K::Insert | K::Update | K::Delete | K::Merge => {
                scan.update |= keyword == K::Update;
                let begins = matches!(scan.before, Before::Open | Before::Close | Before::Start)
                    || scan.bit(scan.with_seen);
                if begins && self.cursor.next.kind != Kind::Comma {
                    self.found.write(&keyword.name());
                    self.found.effects |= Effects::NEXTVAL;
                }
            }
            K::Into => {
                self.found.write("INTO");
                self.found.effects |= Effects::NEXTVAL;
                if !matches!(scan.before, Before::Keyword(K::Insert | K::Merge)) {
                    self.into();
                }
            }
            K::For if matches!(self.cursor.next_keyword, Some(K::Update | K::No | K::Share | K::Key)) => {
                self.found.write("row lock");
            }
            _ => {}
        }
    }

    /// SELECT INTO: a new table, temporary or not.
    fn into(&mut self) {
        self.found.effects |= Effects::DDL;
        let word = self.cursor.bytes(self.cursor.next).to_ascii_lowercase();
        let temporary =
            matches!(self.cursor.next_keyword, Some(K::Temp | K::Temporary | K::Local | K::Global));
        if temporary || word.starts_with(b"pg_temp") || word.starts_with(b"\"pg_temp") {
            self.found.effects |= Effects::TEMP_OBJECT;
        }
    }

    /// A name before a parenthesis that is called.
    fn call(&mut self, scan: &mut Scan, keyword: bool) {
        if scan.calls == Calls::Ignored {
            return;
        }
        let mut name = std::mem::take(&mut self.scratch);
        self.cursor.fold(self.cursor.token, &mut name);
        let known = self.functions.call(&name);
        match known {
            // What it sets is gone with the transaction.
            Some(_) if name == b"set_config" && self.is_set_locally() => {
                self.found.effects |= Effects::SET_LOCAL;
            }
            Some(call) => {
                self.found.effects |= call.effects;
                if !call.read {
                    self.found.raise(Class::Write, || call.reason(&name));
                }
            }
            None if scan.calls == Calls::Judged => {
                self.found.effects |= Effects::UNKNOWN_CALL | Effects::NEXTVAL;
                self.found.raise(Class::Write, || self.functions.unknown(&name));
            }
            None => {}
        }
        if !keyword && name == b"current_setting" {
            scan.argument = Argument::Parenthesis;
            self.found.by_value = true;
        }
        self.scratch = name;
    }

    /// `current_setting` is a read if its argument is the plain name of a setting that the members share.
    fn setting_argument(&mut self, scan: &mut Scan) {
        let token = self.cursor.token;
        let (right, next) = match (scan.argument, token.kind) {
            (Argument::Parenthesis, Kind::Open) => (true, Argument::Name),
            (Argument::Name, Kind::String) => (self.shared_setting(), Argument::End),
            (Argument::End, Kind::Comma | Kind::Close | Kind::Cast) => (true, Argument::None),
            _ => (false, Argument::None),
        };
        // the name itself is the current token in the step of the call
        scan.argument = if right { next } else { Argument::None };
        if !right {
            self.write_unless_ignored(scan, "current_setting");
        }
    }

    /// Whether the current string is the name of a setting that the members share.
    fn shared_setting(&self) -> bool {
        let bytes = self.cursor.bytes(self.cursor.token);
        let inner = bytes.get(1..bytes.len() - 1).unwrap_or_default();
        inner.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b' '))
            && !names::member_setting(inner)
    }

    fn literal(&mut self, scan: &mut Scan) {
        scan.settings.literals += 1;
        if scan.settings.read && !(self.cursor.token.kind == Kind::String && self.shared_setting()) {
            scan.settings.doubtful = true;
        }
    }

    fn conclude(&mut self, scan: &Scan) {
        let view = &scan.settings;
        if view.read && scan.update {
            self.found.effects |= Effects::SET_CONFIG;
        }
        if view.read && (view.doubtful || view.literals == 0) {
            self.found.write("pg_settings");
        }
    }
}

impl Scan {
    fn bit(&self, set: u64) -> bool {
        self.depth < u64::BITS && set >> self.depth & 1 == 1
    }

    fn mask(&self) -> u64 {
        1_u64.checked_shl(self.depth).unwrap_or(0)
    }

    fn open(&mut self) -> Before {
        let follows = matches!(self.before, Before::Keyword(K::On | K::Operator));
        self.depth = self.depth.saturating_add(1);
        let mask = self.mask();
        self.with_list &= !mask;
        self.with_seen &= !mask;
        self.call_follows = if follows { self.call_follows | mask } else { self.call_follows & !mask };
        Before::Open
    }

    fn close(&mut self) -> Before {
        // too deep to remember: a call may follow
        let follows = self.depth >= u64::BITS || self.bit(self.call_follows);
        self.depth = self.depth.saturating_sub(1);
        if follows { Before::Other } else { Before::Close }
    }

    /// Whether a name before a parenthesis can be a function's, by what stands before it: else it is a type with a
    /// modifier, or an alias or a WITH query with its columns.
    fn may_be_call(&self) -> bool {
        match self.before_chain {
            Before::Operand | Before::Close | Before::Cast | Before::Keyword(K::As | K::Into) => false,
            Before::Comma | Before::Keyword(K::With | K::Recursive) => !self.bit(self.with_list),
            _ => true,
        }
    }

    /// Follows a WITH clause: only a few keywords stand between its queries.
    fn follow_with(&mut self, keyword: K, aliased: bool) {
        let mask = self.mask();
        match keyword {
            K::With if matches!(self.before, Before::Start | Before::Open) => {
                self.with_list |= mask;
                self.with_seen |= mask;
            }
            K::As
            | K::Recursive
            | K::Materialized
            | K::Not
            | K::Search
            | K::Breadth
            | K::Depth
            | K::First
            | K::By
            | K::Set
            | K::Cycle
            | K::To
            | K::Default
            | K::Using => {}
            _ if aliased => {}
            _ => self.with_list &= !mask,
        }
    }

    /// Whether an unreserved keyword before a parenthesis is the grammar's own here, by the keyword before it.
    fn takes_parenthesis(&self, keyword: K) -> bool {
        if keyword == K::Operator {
            return true;
        }
        if keyword == K::Rollup {
            return self.grouping;
        }
        let Before::Keyword(before) = self.before else { return false };
        match keyword {
            K::By => matches!(before, K::Order | K::Group | K::Partition),
            K::Sets => before == K::Grouping,
            K::Zone => before == K::Time,
            K::Varying => matches!(before, K::Character | K::Char | K::Nchar | K::Bit),
            K::Second => matches!(before, K::To | K::Interval),
            K::Join => {
                matches!(before, K::Inner | K::Left | K::Right | K::Full | K::Outer | K::Cross | K::Natural)
            }
            K::Conflict => before == K::On,
            K::Insert => before == K::Then,
            K::Set => before == K::Update,
            _ => false,
        }
    }

    fn follow_grouping(&mut self, keyword: K) {
        match keyword {
            K::By => self.grouping = self.before == Before::Keyword(K::Group),
            K::Having | K::Window | K::Order | K::Limit | K::Offset | K::Fetch | K::Select | K::Union => {
                self.grouping = false;
            }
            _ => {}
        }
    }

    /// Follows BEGIN ATOMIC … END in a routine's body.
    fn count_blocks(&mut self, keyword: K, next: Option<K>) {
        match keyword {
            K::Begin if next == Some(K::Atomic) => self.blocks += 1,
            K::Case if self.blocks > 0 => self.blocks += 1,
            // behind a comma it is an option's name
            K::End if !matches!(self.before, Before::Comma | Before::Open) => {
                self.blocks = self.blocks.saturating_sub(1);
            }
            _ => {}
        }
    }
}

/// Reserved words that are values, or end one.
fn is_value(keyword: K) -> bool {
    matches!(
        keyword,
        K::True
            | K::False
            | K::Null
            | K::End
            | K::CurrentDate
            | K::CurrentTime
            | K::CurrentTimestamp
            | K::Localtime
            | K::Localtimestamp
            | K::CurrentUser
            | K::CurrentRole
            | K::SessionUser
            | K::SystemUser
            | K::User
            | K::CurrentCatalog
    )
}
