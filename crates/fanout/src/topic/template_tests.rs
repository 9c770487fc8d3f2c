//! Templates beside regular expressions of another implementation.
