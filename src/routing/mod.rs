//! PURE: class, session and topology into a target.
