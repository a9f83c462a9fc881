//! One application's connection until it may ask.
