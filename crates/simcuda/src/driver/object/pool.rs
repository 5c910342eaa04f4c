//! Pools of stream-ordered allocation.
//!
//! A pool only keeps account: memory comes from the one arena, an allocation holds from its submission and a free takes
//! effect in its stream, so that work of another stream that lacks a wait meets freed memory.

use std::sync::{Arc, Mutex};

use crate::driver::registry::{fresh_id, lock};

/// Settings and use of one pool: `CUmemPool_attribute` in order from 1.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) reuse: [i32; 3],
    pub(crate) release_threshold: u64,
    pub(crate) used: u64,
    pub(crate) used_high: u64,
}

/// One memory pool.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) handle: usize,
    pub(crate) account: Mutex<Account>,
}

impl Pool {
    pub(crate) fn new() -> Self {
        let account = Account { reuse: [1; 3], release_threshold: 0, used: 0, used_high: 0 };
        Self { handle: fresh_id(), account: Mutex::new(account) }
    }
}

/// A stream-ordered allocation.
#[derive(Debug)]
pub(crate) struct PoolBlock {
    pool: Arc<Pool>,
    bytes: u64,
}

impl PoolBlock {
    pub(crate) fn new(pool: &Arc<Pool>, bytes: u64) -> Self {
        let mut account = lock(&pool.account);
        account.used += bytes;
        account.used_high = account.used_high.max(account.used);
        Self { pool: pool.clone(), bytes }
    }

    pub(crate) fn release(self) {
        lock(&self.pool.account).used -= self.bytes;
    }
}
