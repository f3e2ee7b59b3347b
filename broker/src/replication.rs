//! Replication: today the rule that says what is committed; followers attach here.

pub mod watermark;
