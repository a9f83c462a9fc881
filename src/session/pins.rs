//! Why a session holds on to its backend: state that only that backend has.

use std::fmt;

use crate::sql::Effects;

/// What a statement may leave behind that ties the session to its backend.
const PINNING: &[(Effects, &str)] = &[
    (Effects::TEMP_OBJECT, "temporary tables"),
    (Effects::LISTEN, "LISTEN"),
    (Effects::HOLD_CURSOR, "cursors WITH HOLD"),
    (Effects::ADVISORY_LOCK, "session advisory locks"),
    (Effects::PREPARE, "statements of SQL PREPARE"),
    (Effects::LOAD, "a loaded library"),
    (Effects::SET_CONFIG, "settings changed by a function"),
    (Effects::PROCEDURAL, "what DO or CALL may have left"),
    (Effects::CURRVAL, "sequence values"),
    (Effects::BACKEND_STATE, "state of one backend"),
];

/// What ends which of them.
const UNPINNING: &[(Effects, Effects)] = &[
    (Effects::UNLISTEN_ALL, Effects::LISTEN),
    (Effects::CLOSE_ALL, Effects::HOLD_CURSOR),
    (Effects::ADVISORY_UNLOCK_ALL, Effects::ADVISORY_LOCK),
    (Effects::DEALLOCATE_ALL, Effects::PREPARE),
    (Effects::DISCARD_TEMP, Effects::TEMP_OBJECT),
    (Effects::DISCARD_SEQUENCES, Effects::CURRVAL),
];

/// The reasons for which a session is pinned; none: it isn't.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pins(Effects);

impl Pins {
    /// Whether the session is pinned.
    pub(super) fn any(self) -> bool {
        !self.0.is_empty()
    }

    /// Whether it is pinned by nothing that can't be taken up again elsewhere.
    pub(super) fn only_listens(self) -> bool {
        self.0 == Effects::LISTEN
    }

    /// Whether it is pinned for this reason.
    pub(super) fn holds(self, reason: Effects) -> bool {
        self.0.contains(reason)
    }

    /// Whether what a statement does ties the session to its backend.
    pub(super) fn come_of(effects: Effects) -> bool {
        PINNING.iter().any(|(effect, _)| effects.contains(*effect))
    }

    /// Pins for a reason of the proxy's own: a setting changed in a way that it couldn't follow.
    pub(super) fn pin_settings(&mut self) {
        self.0 |= Effects::SET_CONFIG;
    }

    /// Takes up what completed statements did.
    pub(super) fn take_up(&mut self, effects: Effects) {
        if effects.contains(Effects::DISCARD_ALL) {
            self.0 = Effects::NONE;
            return;
        }
        for (end, ended) in UNPINNING {
            if effects.contains(*end) {
                self.0 = Effects(self.0.0 & !ended.0);
            }
        }
        for (effect, _) in PINNING {
            if effects.contains(*effect) {
                self.0 |= *effect;
            }
        }
    }
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons: Vec<_> =
            PINNING.iter().filter(|(effect, _)| self.0.contains(*effect)).map(|(_, name)| *name).collect();
        f.write_str(&reasons.join(", "))
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pins({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_end_with_what_made_them() {
        let mut pins = Pins::default();
        pins.take_up(Effects::LISTEN | Effects::DDL);
        assert!(pins.any() && pins.only_listens());
        pins.take_up(Effects::TEMP_OBJECT);
        assert_eq!(pins.to_string(), "temporary tables, LISTEN");
        pins.take_up(Effects::UNLISTEN_ALL);
        assert_eq!(pins.to_string(), "temporary tables");
        pins.take_up(Effects::DISCARD_ALL);
        assert!(!pins.any());
    }
}
