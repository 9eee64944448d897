//! What is kept of the checks over a restart, beside what they found: those that were made over the
//! API, which are paused, and which were deleted and are not all forgotten yet. What a version does
//! not understand it carries along.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Definition, record::CheckId};
use crate::history::History;

/// Under this name the history keeps those that were made over the API, and which are paused.
pub(super) const DOCUMENT: &str = "checks";
/// And under this one such a document that could not be read.
pub(super) const UNREADABLE: &str = "checks.unreadable";

/// What is kept over a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    /// [`Definition`]s, each read by itself: one that is not understood takes none along.
    pub(super) checks: Vec<Value>,
    /// Of both kinds.
    #[serde(default)]
    pub(super) paused: BTreeSet<CheckId>,
    /// Deleted, and not all of what they found is gone yet.
    #[serde(default)]
    pub(super) forgetting: BTreeSet<CheckId>,
}

impl Kept {
    pub(super) fn read(history: &History) -> Self {
        let bytes = history.document(DOCUMENT).unwrap_or_default();
        if bytes.is_empty() {
            return Self::default();
        }
        serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::error!(
                "the checks that were made over the API cannot be read: {error}; what was kept of \
                 them stays in the history as the document '{UNREADABLE}'"
            );
            history.set_document(UNREADABLE, bytes);
            Self::default()
        })
    }

    /// Those that can be read, and those that cannot.
    pub(super) fn definitions(&mut self) -> (Vec<Definition>, Vec<Value>) {
        let (mut read, mut not) = (Vec::new(), Vec::new());
        for value in self.checks.drain(..) {
            match Definition::deserialize(&value) {
                Ok(definition) => read.push(definition),
                Err(error) => {
                    tracing::error!(
                        "a check that was made over the API is not asked: {error}; it is kept for \
                         a version that can read it: {value}"
                    );
                    not.push(value);
                }
            }
        }
        (read, not)
    }
}
