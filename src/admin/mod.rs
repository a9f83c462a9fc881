//! HTTP, metrics, console.
