//! Studies of what is left out of a model: a grid of methods run on one model and text, in one table.
//!
//! A [`Grid`] makes [`Cell`]s; a finished cell is a [`Record`] in a file of JSON lines ([`Log`]), keyed by all that it depends on, so that an
//! interrupted study goes on where it was; a [`Study`] is the table, the CSV and the page of the records.

mod front;
mod grid;
mod log;
mod page;
mod record;
mod report;

pub use front::{Point, allowed_at, is_on_front};
pub use grid::{Cell, Grid, Method};
pub use log::Log;
pub use record::{Decoding, Record, SiteKept};
pub use report::Study;
