//! Calls that allocate in the order of a stream, and on the pools that keep account.

use std::sync::Arc;

use crate::driver::abi::{In, Out, api};
use crate::driver::codes::{Code, Result};
use crate::driver::current::current;
use crate::driver::object::pool::{Pool, PoolBlock};
use crate::driver::object::work::Work;
use crate::driver::registry::lock;
use crate::driver::state::{Driver, driver, of_device};
use crate::driver::streams;

fn alloc_async(out: &Out<u64>, bytes: usize, pool: &Arc<Pool>, stream_handle: usize) -> Result<()> {
    let (driver, stream) = streams::find(stream_handle)?;
    let ptr = driver.alloc(bytes)?;
    match stream.active_capture() {
        Some(capture) => {
            capture.own(ptr);
            capture.add(stream.handle, Work::Nothing).map(drop)?;
        }
        None => drop(lock(&driver.device.pool_blocks).insert(ptr, PoolBlock::new(pool, bytes as u64))),
    }
    out.set(ptr)
}

fn find(handle: usize) -> Result<(&'static Driver, Arc<Pool>)> {
    let driver = driver()?;
    Ok((driver, driver.pools.get(handle)?))
}

const SMALLEST_ATTRIBUTE: i32 = 1;
const LAST_REUSE: i32 = 3;

api! {
    fn cuMemAllocAsync(out: Out<u64>, bytes: usize, stream: usize) {
        let pool = lock(&driver()?.current_pool).clone();
        alloc_async(&out, bytes, &pool, stream)
    }

    fn cuMemAllocFromPoolAsync(out: Out<u64>, bytes: usize, pool: usize, stream: usize) {
        let (_, pool) = find(pool)?;
        alloc_async(&out, bytes, &pool, stream)
    }

    fn cuDeviceGetDefaultMemPool(out: Out<usize>, device: i32) {
        out.set(of_device(device)?.default_pool.handle)
    }

    fn cuDeviceGetMemPool(out: Out<usize>, device: i32) {
        out.set(lock(&of_device(device)?.current_pool).handle)
    }

    fn cuDeviceSetMemPool(device: i32, pool: usize) {
        let driver = of_device(device)?;
        *lock(&driver.current_pool) = driver.pools.get(pool)?;
        Ok(())
    }

    fn cuMemPoolCreate(out: Out<usize>, properties: In<u8>) {
        let (driver, _) = current()?;
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
