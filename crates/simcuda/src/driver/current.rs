//! Which context is current on a thread.

use std::cell::RefCell;
use std::sync::Arc;

use super::codes::{Code, Result};
use super::object::context::Context;
use super::state::{Driver, driver};

thread_local! {
    static STACK: RefCell<Vec<Arc<Context>>> = const { RefCell::new(Vec::new()) };
}

/// Finds the driver and the thread's current context; `CUDA_ERROR_INVALID_CONTEXT` without one, or its fault.
pub(crate) fn current() -> Result<(&'static Driver, Arc<Context>)> {
    let driver = driver()?;
    let context = top().ok_or(Code::INVALID_CONTEXT)?;
    context.check()?;
    Ok((driver, context))
}

/// The current context, whatever its state.
pub(crate) fn top() -> Option<Arc<Context>> {
    STACK.with_borrow(|stack| stack.last().cloned())
}

/// Makes a context current and keeps the one before below it.
pub(crate) fn push(context: Arc<Context>) {
    STACK.with_borrow_mut(|stack| stack.push(context));
}

/// Takes the current context off.
pub(crate) fn pop() -> Option<Arc<Context>> {
    STACK.with_borrow_mut(Vec::pop)
}
