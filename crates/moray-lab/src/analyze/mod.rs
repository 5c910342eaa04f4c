//! What lies beneath dynamic activation, measured on a model: each analysis is a table, a plot, and a sentence that says whether a
//! published claim holds here.

mod activations;
mod analysis;
mod cett;
mod critical;
mod decay;
mod heads;
mod histogram;
mod inertia;
mod kv;
mod masked;
mod sets;
mod uncertainty;
mod union;

pub use activations::Activations;
pub use analysis::{Analysis, Row};
pub use cett::cett;
pub use critical::critical;
pub use decay::decay;
pub use heads::heads;
pub use histogram::histogram;
pub use inertia::{Inertia, inertia};
pub use kv::{kv, kv_text};
pub use sets::Sets;
pub use uncertainty::{Histories, Seen, uncertainty};
pub use union::union;
