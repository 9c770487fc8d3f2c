//! The index beside asking every topic in turn.
