//! The data path.
#[allow(dead_code)]
mod answer;
