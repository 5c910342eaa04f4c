//! Streams, events and host functions as a cudarc program sees them.

mod common;

use common::{code, open, under_simcuda};
use cudarc::driver::{result, sys};
use sys::CUresult as Code;

#[test]
fn missing_event_wait_shows_in_the_lazy_order_only() {
    let test = "missing_event_wait_shows_in_the_lazy_order_only";
    for order in ["lazy", "eager"] {
        under_simcuda(test, &[("SIMCUDA_ORDER", order)], || {
            let lazy = std::env::var("SIMCUDA_ORDER").expect("set by the parent") == "lazy";
            let (context, first) = open();
            // SAFETY: the test orders its streams itself, or leaves that out on purpose.
            unsafe { context.disable_event_tracking() };
            let second = context.new_stream().expect("a stream");
            let mut data = first.clone_htod(&[1u32; 64]).expect("ones");
            first.synchronize().expect("written");
            first.memset_zeros(&mut data).expect("submitted to the first stream");
            let early = second.clone_dtoh(&data).expect("read by the second stream without a wait");
            assert_eq!(early[0], u32::from(lazy));
            second.wait(&first.record_event(None).expect("an event")).expect("a wait");
            assert_eq!(second.clone_dtoh(&data).expect("read after the wait")[0], 0);
        });
    }
}

#[test]
fn waits_match_submission_order_for_every_seed() {
    let test = "waits_match_submission_order_for_every_seed";
    for order in ["lazy", "eager", "seed:1", "seed:2", "seed:3"] {
        under_simcuda(test, &[("SIMCUDA_ORDER", order)], || {
            let (context, first) = open();
            let streams: Vec<_> = (0..3).map(|_| context.new_stream().expect("a stream")).collect();
            let mut chain = first.clone_htod(&[0u8; 100]).expect("zeros");
            for i in 0..100usize {
                // cudarc's own event tracking orders the streams, one byte after the other.
                let stream = &streams[i % 3];
                let value = stream.clone_dtoh(&chain).expect("the state so far");
                assert!(value[..i].iter().enumerate().all(|(k, &v)| v as usize == k + 1), "{value:?}");
                stream.memcpy_htod(&[i as u8 + 1], &mut chain.slice_mut(i..i + 1)).expect("the next byte");
            }
            let expected: Vec<u8> = (1..=100).collect();
            assert_eq!(first.clone_dtoh(&chain).expect("all"), expected);
        });
    }
}

#[test]
fn default_stream_matches_the_legacy_rule() {
    under_simcuda("default_stream_matches_the_legacy_rule", &[], || {
        let (context, non_blocking) = open();
        let default = context.default_stream();
        // SAFETY: raw handles of this test only, each used while it lives.
        unsafe {
            let blocking = result::stream::create(result::stream::StreamKind::Default).expect("a blocking stream");
            let ptr = result::malloc_sync(4).expect("memory");
            result::memset_d8_sync(ptr, 1, 4).expect("a first value");
            let mut seen = [0u8; 4];
            // The default stream waits for a blocking stream …
            result::memset_d8_async(ptr, 2, 4, blocking).expect("submitted");
            result::memcpy_dtoh_async(&mut seen, ptr, default.cu_stream()).expect("read");
            assert_eq!(seen, [2; 4]);
            // … and a blocking stream for the default stream …
            result::memset_d8_async(ptr, 3, 4, default.cu_stream()).expect("submitted");
            result::memcpy_dtoh_async(&mut seen, ptr, blocking).expect("read");
            assert_eq!(seen, [3; 4]);
            // … but a non-blocking one for neither.
            result::memset_d8_async(ptr, 4, 4, default.cu_stream()).expect("submitted");
            result::memcpy_dtoh_async(&mut seen, ptr, non_blocking.cu_stream()).expect("read");
            assert_eq!(seen, [3; 4]);
            result::free_sync(ptr).expect("freed");
            result::stream::destroy(blocking).expect("destroyed");
        }
    });
}

#[test]
fn event_times_match_the_order_of_records() {
    under_simcuda("event_times_match_the_order_of_records", &[], || {
        let (context, stream) = open();
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let start = stream.record_event(timed).expect("an event");
        // SAFETY: the function ignores its argument.
        unsafe { result::stream::launch_host_function(stream.cu_stream(), sleep_20_ms, std::ptr::null_mut()) }
            .expect("a host function");
        let end = stream.record_event(timed).expect("an event");
        let not_ready = {
            let mut ms = 0.0;
            // SAFETY: both events live.
            unsafe { sys::cuEventElapsedTime_v2(&mut ms, start.cu_event(), end.cu_event()) }
        };
        assert_eq!(not_ready, Code::CUDA_ERROR_NOT_READY);
        let elapsed = start.elapsed_ms(&end).expect("a time");
        assert!(elapsed >= 20.0, "the stream slept 20 ms between the records, got {elapsed} ms");
        let untimed = stream.record_event(None).expect("an event");
        untimed.synchronize().expect("reached");
        assert_eq!(code(start.elapsed_ms(&untimed)), Code::CUDA_ERROR_INVALID_HANDLE);
        assert!(context.new_event(timed).expect("an event").is_complete(), "an event never recorded is complete");
    });
}

#[test]
fn query_never_waits_and_polling_gets_on() {
    under_simcuda("query_never_waits_and_polling_gets_on", &[], || {
        let (_context, stream) = open();
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let gate = Box::into_raw(Box::new(gate));
        // SAFETY: the function takes the receiver back out of its box.
        unsafe { result::stream::launch_host_function(stream.cu_stream(), wait_at_gate, gate.cast()) }
            .expect("submitted");
        let event = stream.record_event(None).expect("an event");
        assert_eq!(event.try_is_complete(), Ok(false));
        // SAFETY: the stream lives.
        let query = || unsafe { sys::cuStreamQuery(stream.cu_stream()) };
        assert_eq!(query(), Code::CUDA_ERROR_NOT_READY);
        release.send(()).expect("the gate is still there");
        while event.try_is_complete() == Ok(false) {
            std::thread::yield_now();
        }
        assert_eq!(event.try_is_complete(), Ok(true));
        assert_eq!(query(), Code::CUDA_SUCCESS);
    });
}

unsafe extern "C" fn wait_at_gate(gate: *mut std::ffi::c_void) {
    // SAFETY: the test passes a boxed receiver and gives it up.
    let gate = unsafe { Box::from_raw(gate.cast::<std::sync::mpsc::Receiver<()>>()) };
    // The test sends before it ends; if it fails first, the sender is gone and this returns too.
    let _ = gate.recv();
}

unsafe extern "C" fn sleep_20_ms(_: *mut std::ffi::c_void) {
    std::thread::sleep(std::time::Duration::from_millis(20));
}

unsafe extern "C" fn call_the_driver(code: *mut std::ffi::c_void) {
    // SAFETY: the test passes the address of an i32 that outlives the stream's work.
    unsafe { *code.cast::<i32>() = sys::cuCtxSynchronize() as i32 };
}

#[test]
fn call_inside_a_host_function_matches_not_permitted() {
    let stderr = under_simcuda("call_inside_a_host_function_matches_not_permitted", &[], || {
        let (_context, stream) = open();
        let mut seen = 0i32;
        // SAFETY: `seen` lives until the stream has been synchronised.
        unsafe {
            let argument = (&raw mut seen).cast();
            result::stream::launch_host_function(stream.cu_stream(), call_the_driver, argument).expect("submitted");
        }
        stream.synchronize().expect("the function has run");
        assert_eq!(seen, Code::CUDA_ERROR_NOT_PERMITTED as i32);
    });
    assert!(stderr.contains("host function"), "{stderr}");
}

#[test]
fn threads_with_their_own_streams_match_one_thread() {
    let test = "threads_with_their_own_streams_match_one_thread";
    for order in ["lazy", "seed:9"] {
        under_simcuda(test, &[("SIMCUDA_ORDER", order)], || {
            let (context, _) = open();
            std::thread::scope(|scope| {
                for thread in 0..4u32 {
                    let context = &context;
                    scope.spawn(move || {
                        let stream = context.new_stream().expect("a stream");
                        for round in 0..50u32 {
                            let data: Vec<u32> = (0..64).map(|i| i * thread + round).collect();
                            let first = stream.clone_htod(&data).expect("up");
                            let mut second = stream.alloc_zeros::<u32>(64).expect("memory");
                            stream.memcpy_dtod(&first, &mut second).expect("across");
                            assert_eq!(stream.clone_dtoh(&second).expect("down"), data);
                        }
                    });
                }
            });
            context.check_err().expect("no error in any drop");
            let (free, total) = context.mem_get_info().expect("info");
            context.synchronize().expect("all frees have run");
            assert!(free <= total && context.mem_get_info().expect("info").0 == total);
        });
    }
}
