//! Stream-ordered allocation and its pools.
//!
//! A pool only keeps account: memory comes from the one arena, an allocation holds from its submission and a free takes
//! effect in its stream, so that work of another stream that lacks a wait meets freed memory.

use std::sync::{Arc, Mutex};

use super::abi::{In, Out, api};
use super::codes::{Code, Result};
use super::context;
use super::registry::{fresh_id, lock};
use super::state::{self, Driver};
use super::stream;
use super::work::Work;

/// Settings and use of one pool: `CUmemPool_attribute` in order from 1.
#[derive(Debug)]
struct Account {
    reuse: [i32; 3],
    release_threshold: u64,
    used: u64,
    used_high: u64,
}

/// One memory pool.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) handle: usize,
    account: Mutex<Account>,
}

/// A stream-ordered allocation.
#[derive(Debug)]
pub(super) struct PoolBlock {
    pool: Arc<Pool>,
    bytes: u64,
}

impl Pool {
    pub(super) fn new() -> Self {
        let account = Account { reuse: [1; 3], release_threshold: 0, used: 0, used_high: 0 };
        Self { handle: fresh_id(), account: Mutex::new(account) }
    }
}

impl PoolBlock {
    fn new(pool: &Arc<Pool>, bytes: u64) -> Self {
        let mut account = lock(&pool.account);
        account.used += bytes;
        account.used_high = account.used_high.max(account.used);
        Self { pool: pool.clone(), bytes }
    }

    pub(super) fn release(self) {
        lock(&self.pool.account).used -= self.bytes;
    }
}

fn alloc_async(out: &Out<u64>, bytes: usize, pool: &Arc<Pool>, stream_handle: usize) -> Result<()> {
    let (driver, stream) = stream::find(stream_handle)?;
    let ptr = driver.alloc(bytes)?;
    match stream.active_capture() {
        Some(capture) => {
            capture.own(ptr);
            capture.add(stream.handle, Work::Nothing).map(drop)?;
        }
        None => drop(lock(&driver.pool_blocks).insert(ptr, PoolBlock::new(pool, bytes as u64))),
    }
    out.set(ptr)
}

fn find(handle: usize) -> Result<(&'static Driver, Arc<Pool>)> {
    let driver = state::driver()?;
    Ok((driver, driver.pools.get(handle)?))
}

const SMALLEST_ATTRIBUTE: i32 = 1;
const LAST_REUSE: i32 = 3;

api! {
    fn cuMemAllocAsync(out: Out<u64>, bytes: usize, stream: usize) {
        let pool = lock(&state::driver()?.current_pool).clone();
        alloc_async(&out, bytes, &pool, stream)
    }

    fn cuMemAllocFromPoolAsync(out: Out<u64>, bytes: usize, pool: usize, stream: usize) {
        let (_, pool) = find(pool)?;
        alloc_async(&out, bytes, &pool, stream)
    }

    fn cuDeviceGetDefaultMemPool(out: Out<usize>, device: i32) {
        out.set(state::device(device)?.default_pool.handle)
    }

    fn cuDeviceGetMemPool(out: Out<usize>, device: i32) {
        out.set(lock(&state::device(device)?.current_pool).handle)
    }

    fn cuDeviceSetMemPool(device: i32, pool: usize) {
        let driver = state::device(device)?;
        *lock(&driver.current_pool) = driver.pools.get(pool)?;
        Ok(())
    }

    fn cuMemPoolCreate(out: Out<usize>, properties: In<u8>) {
        let (driver, _) = context::current()?;
        properties.get()?;
        let pool = Arc::new(Pool::new());
        out.set(pool.handle)?;
        driver.pools.insert(pool.handle, pool);
        Ok(())
    }

    fn cuMemPoolDestroy(pool: usize) {
        let (driver, pool) = find(pool)?;
        if pool.handle == driver.default_pool.handle {
            return Err(Code::INVALID_VALUE.because("the default pool cannot be destroyed"));
        }
        let mut current = lock(&driver.current_pool);
        if current.handle == pool.handle {
            *current = driver.default_pool.clone();
        }
        driver.pools.remove(pool.handle).map(drop)
    }

    fn cuMemPoolTrimTo(pool: usize, _keep_bytes: usize) {
        // Freed memory goes back at once, so there is never anything to trim.
        find(pool).map(drop)
    }

    fn cuMemPoolSetAttribute(pool: usize, attribute: i32, value: In<u64>) {
        let (_, pool) = find(pool)?;
        let mut account = lock(&pool.account);
        match attribute {
            SMALLEST_ATTRIBUTE..=LAST_REUSE => account.reuse[(attribute - 1) as usize] = value.cast::<i32>().get()?,
            4 => account.release_threshold = value.get()?,
            // A high mark can only be reset.
            6 | 8 if value.get()? == 0 => account.used_high = account.used,
            _ => return Err(Code::INVALID_VALUE.into()),
        }
        Ok(())
    }

    fn cuMemPoolGetAttribute(pool: usize, attribute: i32, value: Out<u64>) {
        let (_, pool) = find(pool)?;
        let account = lock(&pool.account);
        match attribute {
            SMALLEST_ATTRIBUTE..=LAST_REUSE => value.cast::<i32>().set(account.reuse[(attribute - 1) as usize]),
            4 => value.set(account.release_threshold),
            5 | 7 => value.set(account.used),
            6 | 8 => value.set(account.used_high),
            _ => Err(Code::INVALID_VALUE.into()),
        }
    }

    fn cuMemPoolSetAccess(pool: usize, _map: In<u8>, _count: usize) {
        // The only device always has access.
        find(pool).map(drop)
    }

    fn cuMemPoolGetAccess(flags: Out<i32>, pool: usize, _location: In<u8>) {
        find(pool)?;
        flags.set(3)
    }
}
