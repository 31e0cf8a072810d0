//! nanoctrl
