//! The pipeline estimator and simulator against closed forms, a naive oracle, published counts and its own documentation.

mod command;
mod docs;
mod estimate;
mod input;
mod memory;
mod oracle;
mod profile;
mod properties;
mod script;
mod simulate;
