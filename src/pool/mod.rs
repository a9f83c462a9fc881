//! The backends of one member.
