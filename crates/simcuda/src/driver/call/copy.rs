//! Copies and fills, synchronous and in streams, of rows and of rectangles.

use std::sync::Arc;

use crate::driver::abi::{Bytes, In, api, read_host};
use crate::driver::codes::{Code, Result};
use crate::driver::current::current;
use crate::driver::object::fill::Fill;
use crate::driver::object::stream::Stream;
use crate::driver::object::transfer::{Place, Transfer};
use crate::driver::object::work::Work;
use crate::driver::state::Driver;
use crate::driver::streams;

/// The caller's description of one end of a copy.
#[derive(Clone, Copy, Debug)]
enum End {
    Device(u64),
    Host(usize),
    /// A pointer of either kind.
    Unified(u64),
}

/// A copy as asked for.
#[derive(Clone, Copy, Debug)]
struct Request {
    dst: End,
    src: End,
    dst_pitch: usize,
    src_pitch: usize,
    width: usize,
    rows: usize,
}

impl Request {
    fn bytes(dst: End, src: End, bytes: usize) -> Self {
        Self { dst, src, dst_pitch: bytes, src_pitch: bytes, width: bytes, rows: 1 }
    }
}

/// Bytes from the first to the last of a rectangle.
fn span(pitch: usize, width: usize, rows: usize) -> Result<usize> {
    let rest = pitch.checked_mul(rows - 1).and_then(|bytes| bytes.checked_add(width));
    rest.ok_or_else(|| Code::INVALID_VALUE.into())
}

/// Checks that a range lies in one live allocation.
fn check_device(driver: &Driver, ptr: u64, bytes: usize) -> Result<()> {
    match driver.device.memory.allocation_of(ptr) {
        Some((base, size)) if bytes <= size - (ptr - base) as usize => Ok(()),
        Some((base, size)) => {
            let message = format!("expected a range inside {size} bytes at {base:#x}, got {bytes} bytes at {ptr:#x}");
            Err(Code::INVALID_VALUE.because(message))
        }
        None => Err(Code::INVALID_VALUE.because(format!("expected device memory, got {ptr:#x}"))),
    }
}

/// Resolves one end; device ranges are checked, null host pointers refused.
fn resolve(driver: &Driver, end: End, bytes: usize) -> Result<Place> {
    match end {
        End::Device(ptr) => check_device(driver, ptr, bytes).map(|()| Place::Device(ptr)),
        End::Unified(ptr) if driver.device.memory.allocation_of(ptr).is_some() => {
            resolve(driver, End::Device(ptr), bytes)
        }
        End::Unified(ptr) => resolve(driver, End::Host(ptr as usize), bytes),
        End::Host(0) => Err(Code::INVALID_VALUE.because("expected a host pointer, got null")),
        // Pinned memory is device memory too, where the copy can be checked when it runs.
        End::Host(address) => match driver.device.memory.allocation_of(address as u64) {
            Some(_) => resolve(driver, End::Device(address as u64), bytes),
            None => Ok(Place::Host(address)),
        },
    }
}

/// Makes the work of a copy. `stage` takes the bytes of pageable sources now, as the driver does before it returns.
fn transfer(driver: &Driver, request: Request, stage: bool) -> Result<Option<Transfer>> {
    let Request { dst, src, dst_pitch, src_pitch, width, rows } = request;
    if width == 0 || rows == 0 {
        return Ok(None);
    }
    if rows > 1 && (dst_pitch < width || src_pitch < width) {
        return Err(Code::INVALID_VALUE.because(format!("expected pitches of at least {width} bytes")));
    }
    let dst = resolve(driver, dst, span(dst_pitch, width, rows)?)?;
    let src_bytes = span(src_pitch, width, rows)?;
    let mut src = resolve(driver, src, src_bytes)?;
    if let (true, Place::Host(address)) = (stage, &src)
        && !driver.device.host.is_registered(*address)
    {
        src = Place::Staged(Arc::from(read_host(*address, src_bytes)));
    }
    Ok(Some(Transfer { dst, src, dst_pitch, src_pitch, width, rows }))
}

/// Submits a copy to a stream.
fn copy_in_stream(request: Request, stream_handle: usize) -> Result<()> {
    let (driver, stream) = streams::find(stream_handle)?;
    let captured = stream.active_capture().is_some();
    // A captured copy reads its source at every launch.
    let Some(transfer) = transfer(driver, request, !captured)? else { return Ok(()) };
    let waits = !captured && matches!(transfer.dst, Place::Host(address) if !driver.device.host.is_registered(address));
    driver.enqueue(&stream, Work::Transfer(transfer))?;
    if waits {
        // A copy to pageable memory returns once it is complete.
        return wait(driver, &stream);
    }
    Ok(())
}

fn wait(driver: &Driver, stream: &Stream) -> Result<()> {
    driver.scheduler.run_to(driver.scheduler.last(stream.handle));
    stream.context.check()
}

/// Runs a copy on the default stream and waits for it.
fn copy_now(request: Request) -> Result<()> {
    let (driver, _) = current()?;
    driver.refuse_unsafe_call()?;
    let Some(transfer) = transfer(driver, request, false)? else { return Ok(()) };
    let (driver, stream) = streams::find(0)?;
    driver.enqueue(&stream, Work::Transfer(transfer))?;
    wait(driver, &stream)
}

pub(super) fn fill(
    dst: u64,
    pitch: usize,
    pattern: u32,
    element_bytes: usize,
    width: usize,
    rows: usize,
) -> Result<Option<Fill>> {
    let (driver, _) = current()?;
    if width == 0 || rows == 0 {
        return Ok(None);
    }
    let row_bytes = width.checked_mul(element_bytes).ok_or(Code::INVALID_VALUE)?;
    if !dst.is_multiple_of(element_bytes as u64) || rows > 1 && !pitch.is_multiple_of(element_bytes) {
        let message =
            format!("expected an address and pitch of whole {element_bytes}-byte elements, got {dst:#x}, {pitch}");
        return Err(Code::INVALID_VALUE.because(message));
    }
    if rows > 1 && pitch < row_bytes {
        return Err(Code::INVALID_VALUE.because(format!("expected a pitch of at least {row_bytes} bytes, got {pitch}")));
    }
    check_device(driver, dst, span(pitch, row_bytes, rows)?)?;
    Ok(Some(Fill { dst, pitch, pattern: pattern.to_le_bytes(), element_bytes, width, rows }))
}

fn fill_in_stream(fill: Option<Fill>, stream_handle: usize) -> Result<()> {
    let (driver, stream) = streams::find(stream_handle)?;
    fill.map_or(Ok(()), |fill| driver.enqueue(&stream, Work::Fill(fill)))
}

fn fill_now(fill: Option<Fill>) -> Result<()> {
    let (driver, stream) = streams::find(0)?;
    driver.refuse_unsafe_call()?;
    let Some(fill) = fill else { return Ok(()) };
    driver.enqueue(&stream, Work::Fill(fill))?;
    wait(driver, &stream)
}

/// One end of a rectangle, by `CUmemorytype`.
fn end(kind: u32, host: usize, device: u64, array: usize, x: usize, y: usize, pitch: usize) -> Result<End> {
    let offset = y.checked_mul(pitch).and_then(|rows| rows.checked_add(x)).ok_or(Code::INVALID_VALUE)?;
    match kind {
        1 => Ok(End::Host(host.wrapping_add(offset))),
        2 => Ok(End::Device(device.wrapping_add(offset as u64))),
        4 => Ok(End::Unified(device.wrapping_add(offset as u64))),
        _ => Err(Code::NOT_SUPPORTED.because(format!("copies of arrays (memory type {kind}, array {array:#x})"))),
    }
}

/// `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Box3 {
    src: BoxEnd,
    dst: BoxEnd,
    width: usize,
    height: usize,
    depth: usize,
}

/// One end of it.
#[repr(C)]
#[derive(Clone, Copy)]
struct BoxEnd {
    x: usize,
    y: usize,
    z: usize,
    level: usize,
    kind: u32,
    host: usize,
    device: u64,
    array: usize,
    reserved: usize,
    pitch: usize,
    height: usize,
}

impl BoxEnd {
    fn end(&self, pitch: usize) -> Result<End> {
        if self.z != 0 || self.level != 0 {
            return Err(Code::NOT_SUPPORTED.because("copies of more than one layer"));
        }
        end(self.kind, self.host, self.device, self.array, self.x, self.y, pitch)
    }
}

/// The work of a graph's copy of one layer; its source is read at every launch.
pub(super) fn layer(copy: &Box3) -> Result<Work> {
    if copy.depth > 1 {
        return Err(Code::NOT_SUPPORTED.because("copies of more than one layer"));
    }
    let pitch = |given: usize| if given == 0 { copy.width } else { given };
    let (src_pitch, dst_pitch) = (pitch(copy.src.pitch), pitch(copy.dst.pitch));
    let (dst, src) = (copy.dst.end(dst_pitch)?, copy.src.end(src_pitch)?);
    let request = Request { dst, src, dst_pitch, src_pitch, width: copy.width, rows: copy.height.max(1) };
    let (driver, _) = current()?;
    Ok(transfer(driver, request, false)?.map_or(Work::Nothing, Work::Transfer))
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Rectangle {
    src_x: usize,
    src_y: usize,
    src_type: u32,
    src_host: usize,
    src_device: u64,
    src_array: usize,
    src_pitch: usize,
    dst_x: usize,
    dst_y: usize,
    dst_type: u32,
    dst_host: usize,
    dst_device: u64,
    dst_array: usize,
    dst_pitch: usize,
    width: usize,
    height: usize,
}

impl Rectangle {
    fn request(&self) -> Result<Request> {
        let pitch = |given: usize| if given == 0 { self.width } else { given };
        let (src_pitch, dst_pitch) = (pitch(self.src_pitch), pitch(self.dst_pitch));
        Ok(Request {
            dst: end(self.dst_type, self.dst_host, self.dst_device, self.dst_array, self.dst_x, self.dst_y, dst_pitch)?,
            src: end(self.src_type, self.src_host, self.src_device, self.src_array, self.src_x, self.src_y, src_pitch)?,
            dst_pitch,
            src_pitch,
            width: self.width,
            rows: self.height,
        })
    }
}

api! {
    fn cuMemcpyHtoD_v2(dst: u64, src: Bytes, bytes: usize) {
        copy_now(Request::bytes(End::Device(dst), End::Host(src.address()), bytes))
    }

    fn cuMemcpyDtoH_v2(dst: Bytes, src: u64, bytes: usize) {
        copy_now(Request::bytes(End::Host(dst.address()), End::Device(src), bytes))
    }

    fn cuMemcpyDtoD_v2(dst: u64, src: u64, bytes: usize) {
        copy_now(Request::bytes(End::Device(dst), End::Device(src), bytes))
    }

    fn cuMemcpy(dst: u64, src: u64, bytes: usize) {
        copy_now(Request::bytes(End::Unified(dst), End::Unified(src), bytes))
    }

    fn cuMemcpyHtoDAsync_v2(dst: u64, src: Bytes, bytes: usize, stream: usize) {
        copy_in_stream(Request::bytes(End::Device(dst), End::Host(src.address()), bytes), stream)
    }

    fn cuMemcpyDtoHAsync_v2(dst: Bytes, src: u64, bytes: usize, stream: usize) {
        copy_in_stream(Request::bytes(End::Host(dst.address()), End::Device(src), bytes), stream)
    }

    fn cuMemcpyDtoDAsync_v2(dst: u64, src: u64, bytes: usize, stream: usize) {
        copy_in_stream(Request::bytes(End::Device(dst), End::Device(src), bytes), stream)
    }

    fn cuMemcpyAsync(dst: u64, src: u64, bytes: usize, stream: usize) {
        copy_in_stream(Request::bytes(End::Unified(dst), End::Unified(src), bytes), stream)
    }

    fn cuMemcpyPeerAsync(dst: u64, _dst_ctx: usize, src: u64, _src_ctx: usize, bytes: usize, stream: usize) {
        // Contexts of the one device share its memory.
        copy_in_stream(Request::bytes(End::Device(dst), End::Device(src), bytes), stream)
    }

    fn cuMemcpy2D_v2(rectangle: In<Rectangle>) {
        copy_now(rectangle.get()?.request()?)
    }

    fn cuMemcpy2DUnaligned_v2(rectangle: In<Rectangle>) {
        copy_now(rectangle.get()?.request()?)
    }

    fn cuMemcpy2DAsync_v2(rectangle: In<Rectangle>, stream: usize) {
        copy_in_stream(rectangle.get()?.request()?, stream)
    }

    fn cuMemsetD8_v2(dst: u64, value: u8, count: usize) {
        fill_now(fill(dst, 0, value.into(), 1, count, 1)?)
    }

    fn cuMemsetD16_v2(dst: u64, value: u16, count: usize) {
        fill_now(fill(dst, 0, value.into(), 2, count, 1)?)
    }

    fn cuMemsetD32_v2(dst: u64, value: u32, count: usize) {
        fill_now(fill(dst, 0, value, 4, count, 1)?)
    }

    fn cuMemsetD2D8_v2(dst: u64, pitch: usize, value: u8, width: usize, height: usize) {
        fill_now(fill(dst, pitch, value.into(), 1, width, height)?)
    }

    fn cuMemsetD2D16_v2(dst: u64, pitch: usize, value: u16, width: usize, height: usize) {
        fill_now(fill(dst, pitch, value.into(), 2, width, height)?)
    }

    fn cuMemsetD2D32_v2(dst: u64, pitch: usize, value: u32, width: usize, height: usize) {
        fill_now(fill(dst, pitch, value, 4, width, height)?)
    }

    fn cuMemsetD8Async(dst: u64, value: u8, count: usize, stream: usize) {
        fill_in_stream(fill(dst, 0, value.into(), 1, count, 1)?, stream)
    }

    fn cuMemsetD16Async(dst: u64, value: u16, count: usize, stream: usize) {
        fill_in_stream(fill(dst, 0, value.into(), 2, count, 1)?, stream)
    }

    fn cuMemsetD32Async(dst: u64, value: u32, count: usize, stream: usize) {
        fill_in_stream(fill(dst, 0, value, 4, count, 1)?, stream)
    }

    fn cuMemsetD2D8Async(dst: u64, pitch: usize, value: u8, width: usize, height: usize, stream: usize) {
        fill_in_stream(fill(dst, pitch, value.into(), 1, width, height)?, stream)
    }

    fn cuMemsetD2D16Async(dst: u64, pitch: usize, value: u16, width: usize, height: usize, stream: usize) {
        fill_in_stream(fill(dst, pitch, value.into(), 2, width, height)?, stream)
    }

    fn cuMemsetD2D32Async(dst: u64, pitch: usize, value: u32, width: usize, height: usize, stream: usize) {
        fill_in_stream(fill(dst, pitch, value, 4, width, height)?, stream)
    }
}
