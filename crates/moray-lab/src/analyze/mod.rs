//! What lies beneath dynamic activation, measured on a model: each analysis is a table, a plot, and a sentence that says whether a
//! published claim holds here.

mod activations;
mod analysis;
mod cett;
mod decay;
mod inertia;
mod sets;
mod union;

pub use activations::Activations;
pub use analysis::{Analysis, Row};
pub use cett::cett;
pub use decay::decay;
pub use inertia::{Inertia, inertia};
pub use sets::Sets;
pub use union::union;
