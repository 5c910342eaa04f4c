//! Stream capture and graphs: replays, and the errors that protect a capture.

mod common;

use std::sync::Arc;

use common::{code, driver_lines, under_simcuda};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};
use sys::CUgraphInstantiate_flags as Flags;
use sys::CUresult as Code;
use sys::CUstreamCaptureMode::{self as Mode, *};
use sys::CUstreamCaptureStatus as Status;

/// The device and a stream, which the tests here order themselves.
fn open() -> (Arc<CudaContext>, Arc<CudaStream>) {
    let (context, stream) = common::open();
    // SAFETY: as said.
    unsafe { context.disable_event_tracking() };
    (context, stream)
}

fn begin(stream: &CudaStream, mode: Mode) {
    stream.begin_capture(mode).expect("a capture");
}

#[test]
fn replay_matches_the_captured_work_each_time() {
    let test = "replay_matches_the_captured_work_each_time";
    for order in ["lazy", "eager", "seed:5"] {
        under_simcuda(test, &[("SIMCUDA_ORDER", order)], || {
            let (_context, stream) = open();
            let source = stream.clone_htod(&[1u32, 2, 3, 4]).expect("data");
            let mut data = stream.clone_htod(&[9u32; 4]).expect("data");
            stream.synchronize().expect("written");
            begin(&stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
            stream.memset_zeros(&mut data).expect("captured");
            stream.memcpy_dtod(&source.slice(0..2), &mut data.slice_mut(1..3)).expect("captured");
            assert_eq!(stream.capture_status().expect("a status"), Status::CU_STREAM_CAPTURE_STATUS_ACTIVE);
            let graph = stream.end_capture(Flags(0)).expect("a graph").expect("a graph");
            assert_eq!(stream.clone_dtoh(&data).expect("back"), [9; 4], "capturing runs nothing");
            graph.upload().expect("uploaded");
            for value in [5u32, 6] {
                stream.memcpy_htod(&[value; 4], &mut data).expect("a value to overwrite");
                graph.launch().expect("launched");
                assert_eq!(stream.clone_dtoh(&data).expect("back"), [0, 1, 2, 0]);
            }
        });
    }
}

#[test]
fn fork_and_join_match_a_diamond_of_nodes() {
    let test = "fork_and_join_match_a_diamond_of_nodes";
    for order in ["lazy", "eager", "seed:1", "seed:2"] {
        under_simcuda(test, &[("SIMCUDA_ORDER", order)], || {
            let (context, first) = open();
            let second = context.new_stream().expect("a stream");
            let mut data = first.clone_htod(&[7u8; 3]).expect("data");
            first.synchronize().expect("written");
            begin(&first, CU_STREAM_CAPTURE_MODE_GLOBAL);
            first.memset_zeros(&mut data).expect("the first node");
            second.wait(&first.record_event(None).expect("an event")).expect("the fork");
            assert_eq!(second.capture_status().expect("a status"), Status::CU_STREAM_CAPTURE_STATUS_ACTIVE);
            // SAFETY: two disjoint bytes of live memory.
            unsafe {
                let (ptr, _guard) = cudarc::driver::DevicePtrMut::device_ptr_mut(&mut data, &first);
                result::memset_d8_async(ptr, 1, 1, first.cu_stream()).expect("one branch");
                result::memset_d8_async(ptr + 1, 2, 1, second.cu_stream()).expect("the other branch");
                first.wait(&second.record_event(None).expect("an event")).expect("the join");
                result::memcpy_dtod_async(ptr + 2, ptr + 1, 1, first.cu_stream()).expect("the last node");
            }
            let graph = first.end_capture(Flags(0)).expect("a graph").expect("a graph");
            let (mut nodes, mut roots) = (0, 0);
            // SAFETY: counts are written, no node lists asked for.
            unsafe {
                sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &mut nodes).result().expect("a count");
                sys::cuGraphGetRootNodes(graph.cu_graph(), std::ptr::null_mut(), &mut roots).result().expect("a count");
            }
            assert_eq!((nodes, roots), (4, 1));
            graph.launch().expect("launched");
            assert_eq!(first.clone_dtoh(&data).expect("back"), [1, 2, 2]);
        });
    }
}

#[test]
fn wait_on_an_uncaptured_event_matches_isolation() {
    let stderr = under_simcuda("wait_on_an_uncaptured_event_matches_isolation", &[], || {
        let (context, stream) = open();
        let other = context.new_stream().expect("a stream");
        let event = other.record_event(None).expect("an event outside");
        begin(&stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
        assert_eq!(code(stream.wait(&event)), Code::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        assert_eq!(stream.capture_status().expect("a status"), Status::CU_STREAM_CAPTURE_STATUS_INVALIDATED);
        assert_eq!(code(stream.end_capture(Flags(0))), Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        assert_eq!(stream.capture_status().expect("a status"), Status::CU_STREAM_CAPTURE_STATUS_NONE);
        stream.synchronize().expect("the stream works again");
    });
    assert_eq!(driver_lines(&stderr).len(), 1, "{stderr}");
}

#[test]
fn synchronisation_in_a_capture_matches_unsupported() {
    under_simcuda("synchronisation_in_a_capture_matches_unsupported", &[], || {
        let (context, stream) = open();
        for call in [
            (|_, stream| stream.synchronize()) as fn(&CudaContext, &CudaStream) -> Result<(), DriverError>,
            |context, _| context.synchronize(),
            // SAFETY: the call is refused.
            |_, _| unsafe { result::malloc_sync(4) }.map(drop),
        ] {
            begin(&stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
            assert_eq!(code(call(&context, &stream)), Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
            assert_eq!(code(stream.end_capture(Flags(0))), Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        // A relaxed capture forbids only what touches its own stream.
        begin(&stream, CU_STREAM_CAPTURE_MODE_RELAXED);
        context.synchronize().expect("allowed beside a relaxed capture");
        assert!(stream.end_capture(Flags(0)).expect("still valid").is_some());
        let event = stream.record_event(None).expect("an event");
        begin(&stream, CU_STREAM_CAPTURE_MODE_RELAXED);
        event.record(&stream).expect("recorded in the capture");
        assert_eq!(code(event.synchronize()), Code::CUDA_ERROR_CAPTURED_EVENT);
        assert_eq!(code(stream.end_capture(Flags(0))), Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    });
}

#[test]
fn capture_of_another_thread_matches_its_mode() {
    under_simcuda("capture_of_another_thread_matches_its_mode", &[], || {
        let (context, stream) = open();
        for (mode, expected) in [
            (CU_STREAM_CAPTURE_MODE_GLOBAL, Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
            (CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, Code::CUDA_SUCCESS),
        ] {
            begin(&stream, mode);
            let seen = std::thread::scope(|scope| scope.spawn(|| code(context.synchronize())).join().expect("ends"));
            assert_eq!(seen, expected, "{mode:?}");
            drop(stream.end_capture(Flags(0)));
        }
        begin(&stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
        let elsewhere = std::thread::scope(|scope| {
            let end = || {
                context.bind_to_thread().expect("current");
                // SAFETY: the stream lives; the call is refused.
                code(unsafe { result::stream::end_capture(stream.cu_stream()) })
            };
            scope.spawn(end).join().expect("ends")
        });
        assert_eq!(elsewhere, Code::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
        assert!(stream.end_capture(Flags(0)).expect("not invalidated").is_some());
    });
}

#[test]
fn misuse_of_captures_matches_its_codes() {
    under_simcuda("misuse_of_captures_matches_its_codes", &[], || {
        let (context, stream) = open();
        let other = context.new_stream().expect("a stream");
        let default = context.default_stream();
        assert_eq!(
            code(default.begin_capture(CU_STREAM_CAPTURE_MODE_GLOBAL)),
            Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        );
        assert_eq!(code(stream.end_capture(Flags(0))), Code::CUDA_ERROR_ILLEGAL_STATE);
        // Work of another stream that nobody joins.
        begin(&stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
        assert_eq!(code(stream.begin_capture(CU_STREAM_CAPTURE_MODE_GLOBAL)), Code::CUDA_ERROR_ILLEGAL_STATE);
        other.wait(&stream.record_event(None).expect("an event")).expect("the fork");
        let mut data = other.alloc_zeros::<u8>(4).expect("memory of the graph");
        other.memset_zeros(&mut data).expect("captured");
        assert_eq!(code(other.end_capture(Flags(0))), Code::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
        assert_ne!(code(stream.end_capture(Flags(0))), Code::CUDA_SUCCESS);
        std::mem::forget(data);
        begin(&stream, CU_STREAM_CAPTURE_MODE_RELAXED);
        other.wait(&stream.record_event(None).expect("an event")).expect("the fork");
        // SAFETY: a function that does nothing.
        unsafe { result::stream::launch_host_function(other.cu_stream(), nothing, std::ptr::null_mut()) }
            .expect("a node");
        assert_eq!(code(stream.end_capture(Flags(0))), Code::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
        // Two captures do not merge.
        begin(&stream, CU_STREAM_CAPTURE_MODE_RELAXED);
        begin(&other, CU_STREAM_CAPTURE_MODE_RELAXED);
        let event = other.record_event(None).expect("an event");
        assert_eq!(code(stream.wait(&event)), Code::CUDA_ERROR_STREAM_CAPTURE_MERGE);
        assert_eq!(code(stream.end_capture(Flags(0))), Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        assert_eq!(code(other.end_capture(Flags(0))), Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    });
}

unsafe extern "C" fn nothing(_: *mut std::ffi::c_void) {}

#[test]
fn default_stream_beside_a_blocking_capture_matches_implicit() {
    under_simcuda("default_stream_beside_a_blocking_capture_matches_implicit", &[], || {
        let (context, _) = open();
        // SAFETY: raw handles of this test only, each used while it lives.
        unsafe {
            let ptr = result::malloc_sync(4).expect("memory");
            let blocking = result::stream::create(result::stream::StreamKind::Default).expect("a blocking stream");
            result::stream::begin_capture(blocking, CU_STREAM_CAPTURE_MODE_RELAXED).expect("a capture");
            let on_default = result::memset_d8_async(ptr, 0, 4, context.default_stream().cu_stream());
            assert_eq!(code(on_default), Code::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
            assert_eq!(code(result::stream::end_capture(blocking)), Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
            result::stream::destroy(blocking).expect("destroyed");
            result::free_sync(ptr).expect("freed");
        }
    });
}

#[test]
fn memory_of_a_graph_lives_as_long_as_the_graph() {
    let settings = [("SIMCUDA_MEMORY", "1048576")];
    under_simcuda("memory_of_a_graph_lives_as_long_as_the_graph", &settings, || {
        let (context, stream) = open();
        let all = context.mem_get_info().expect("info").0;
        begin(&stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
        drop(stream.alloc_zeros::<u8>(4096).expect("memory of the graph"));
        let graph = stream.end_capture(Flags(0)).expect("a graph").expect("a graph");
        for _ in 0..3 {
            graph.launch().expect("launched");
        }
        stream.synchronize().expect("run");
        assert_eq!(context.mem_get_info().expect("info").0, all - 4096);
        drop(graph);
        assert_eq!(context.mem_get_info().expect("info").0, all);
        context.check_err().expect("no error on the way");
    });
}

#[test]
fn invalid_flags_match_invalid_value() {
    under_simcuda("invalid_flags_match_invalid_value", &[], || {
        let (_context, stream) = open();
        let both =
            Flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH | Flags::CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH;
        for (flags, expected) in [
            (both, Code::CUDA_ERROR_INVALID_VALUE),
            (Flags(64), Code::CUDA_ERROR_INVALID_VALUE),
            (Flags::CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH, Code::CUDA_ERROR_NOT_SUPPORTED),
            (Flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH, Code::CUDA_SUCCESS),
        ] {
            begin(&stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
            assert_eq!(code(stream.end_capture(flags).map(|_| ())), expected);
        }
    });
}
