//! What the reader of capture files is held to: made files for every variant of the formats, files
//! that are cut off or corrupt at every place, and the real captures.

mod captures;
mod faults;
mod formats;
mod links;
mod made;
