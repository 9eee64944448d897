//! What the reader of capture files is held to.
