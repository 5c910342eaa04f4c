//! Every finding of the checker: provoked by a small kernel with that fault, silent on the mended one.

mod device;
use device::{Device, ptx, shape};
use simcuda::machine::{Arch, Checks, Fault, FaultKind, LaunchConfig, Level};

/// A kernel over one pointer and 64 bytes of shared memory.
fn kernel(body: &str) -> String {
    ptx(&format!(
        ".file 1 \"fault.cu\"
        .visible .entry k(.param .u64 p) {{
            .reg .b64 %p, %a, %b, %st; .reg .b32 %t, %l, %x, %y, %s, %w; .reg .pred %q, %r;
            .shared .align 16 .b8 buf[1024]; .shared .align 8 .b64 bar;
            ld.param.u64 %p, [p]; mov.u32 %t, %tid.x; mov.u32 %l, %laneid; shr.u32 %w, %t, 5;
            mov.u32 %s, buf; mad.lo.u32 %s, %t, 4, %s; mov.u32 %x, 5; mov.u32 %y, 0;
            .loc 1 42 7
            {body}
            ret; }}"
    ))
}

/// Runs a body with `threads` on a buffer of 256 written bytes.
fn run(body: &str, threads: u32) -> Result<(), Fault> {
    run_on(&Device::of(Arch::Sm90), body, &shape(1, threads))
}

fn run_on(device: &Device, body: &str, config: &LaunchConfig) -> Result<(), Fault> {
    let f = device.kernel(&kernel(body));
    let p = device.upload(&[1; 256]);
    device.run(&f, config, &[p]).map(drop)
}

/// The faulty body gives the kind, the mended one nothing.
fn finds(kind: FaultKind, threads: u32, faulty: &str, mended: &str) -> Fault {
    let fault = run(faulty, threads).expect_err(faulty);
    assert_eq!(fault.kind, kind, "{fault}");
    assert_eq!(fault.kernel, "k");
    if let Err(fault) = run(mended, threads) {
        panic!("the mended kernel still fails: {fault}\n{mended}");
    }
    fault
}

#[test]
fn global_access_out_of_bounds_is_found_with_its_place() {
    let access = |offset: u32| format!("mad.wide.u32 %a, %t, 4, %p; st.global.u32 [%a+{offset}], %x;");
    let fault = finds(FaultKind::OutOfBounds, 64, &access(4), &access(0));
    assert_eq!(fault.source, Some(("fault.cu".into(), 42)));
    assert_eq!((fault.thread, fault.block), ([63, 0, 0], [0, 0, 0]));
    let allocation = fault.allocation.expect("known");
    assert_eq!((fault.address, allocation.size_bytes), (Some(allocation.base + 256), 256));
    let text = fault.to_string();
    assert!(
        text.contains("kernel k at ptx line") && text.contains("fault.cu:42") && text.contains("thread (63,0,0)"),
        "{text}"
    );
    finds(FaultKind::OutOfBounds, 32, "ld.global.u32 %y, [%p+256];", "ld.global.u32 %y, [%p+252];");
    finds(FaultKind::OutOfBounds, 32, "ld.u32 %y, [%p+-4];", "ld.u32 %y, [%p];");
    finds(FaultKind::OutOfBounds, 32, "mov.u64 %a, 0; ld.global.u32 %y, [%a];", "ld.global.u32 %y, [%p];");
    finds(FaultKind::OutOfBounds, 32, "atom.global.add.u32 %y, [%p+1024], 1;", "atom.global.add.u32 %y, [%p], 1;");
}

#[test]
fn use_after_free_is_found() {
    let device = Device::new();
    let f = device.kernel(&kernel("ld.global.u32 %y, [%p+8];"));
    let p = device.upload(&[1; 64]);
    assert!(device.run(&f, &shape(1, 32), &[p]).is_ok());
    device.memory.free(p).expect("live");
    let fault = device.run(&f, &shape(1, 32), &[p]).expect_err("freed");
    assert_eq!((fault.kind, fault.address), (FaultKind::UseAfterFree, Some(p + 8)));
    assert!(fault.allocation.is_some_and(|a| a.freed && a.base == p));
}

#[test]
fn misaligned_access_is_found_in_each_space() {
    finds(FaultKind::Misaligned, 32, "ld.global.u32 %y, [%p+2];", "ld.global.u16 %y, [%p+2];");
    finds(FaultKind::Misaligned, 32, "st.shared.v2.u32 [%s], {%x, %x};", "st.shared.u32 [%s], %x;");
    finds(
        FaultKind::Misaligned,
        1,
        "ld.global.v4.u32 {%x, %y, %t, %l}, [%p+8];",
        "ld.global.v4.u32 {%x, %y, %t, %l}, [%p+16];",
    );
}

#[test]
fn uninitialised_global_memory_is_found_to_the_byte() {
    let device = Device::new();
    let f = device.kernel(&kernel("ld.global.u32 %y, [%p+4];"));
    let p = device.memory.alloc(64).expect("fits");
    device.memory.write(p, &[0; 7]).expect("inside");
    let fault = device.run(&f, &shape(1, 32), &[p]).expect_err("one byte is missing");
    assert_eq!((fault.kind, fault.address), (FaultKind::Uninitialized, Some(p + 7)));
    device.memory.write(p + 7, &[0]).expect("inside");
    assert!(device.run(&f, &shape(1, 32), &[p]).is_ok());
}

#[test]
fn kernels_initialise_what_they_store() {
    let device = Device::new();
    let f = device.kernel(&kernel("mad.wide.u32 %a, %t, 4, %p; st.global.u32 [%a], %t; ld.global.u32 %y, [%a];"));
    let p = device.memory.alloc(256).expect("fits");
    assert!(device.run(&f, &shape(1, 64), &[p]).is_ok());
}

#[test]
fn uninitialised_and_outside_shared_memory_is_found() {
    finds(FaultKind::Uninitialized, 32, "ld.shared.u32 %y, [%s];", "st.shared.u32 [%s], %x; ld.shared.u32 %y, [%s];");
    finds(
        FaultKind::Uninitialized,
        32,
        "st.shared.u16 [%s], %x; ld.shared.u32 %y, [%s];",
        "st.shared.u16 [%s], %x; ld.shared.u16 %y, [%s];",
    );
    // A reader that comes before the writer of another warp is a race, whichever runs first.
    let reverse = |sync: &str| format!("st.shared.u32 [%s], %t; {sync} xor.b32 %s, %s, 128; ld.shared.u32 %y, [%s];");
    finds(FaultKind::SharedRace, 64, &reverse(""), &reverse("bar.sync 0;"));
    let unwritten = "ld.shared.u32 %y, [%s+512]; bar.sync 0;";
    let fault = finds(FaultKind::Uninitialized, 64, unwritten, "bar.sync 0;");
    assert_eq!(fault.address, Some(512));
    finds(FaultKind::OutOfBounds, 32, "st.shared.u32 [%s+100000], %x;", "st.shared.u32 [%s+800], %x;");
}

#[test]
fn shared_races_between_warps_are_found_in_every_order() {
    // Write by one thread, read by a thread of another warp.
    let exchange =
        |sync: &str| format!("st.shared.u32 [%s], %t; {sync} setp.ge.u32 %q, %t, 32; @%q ld.shared.u32 %y, [%s+-128];");
    let fault = finds(FaultKind::SharedRace, 64, &exchange(""), &exchange("bar.sync 0;"));
    assert!(fault.message.contains("write of thread"), "{fault}");
    // Read, then write by another warp.
    let reuse = |sync: &str| {
        format!(
            "st.shared.u32 [%s], %t; bar.sync 0; setp.lt.u32 %q, %t, 32; @%q ld.shared.u32 %y, [%s+128];
             {sync} @!%q st.shared.u32 [%s], %x;"
        )
    };
    let fault = finds(FaultKind::SharedRace, 64, &reuse(""), &reuse("bar.sync 0;"));
    assert!(fault.message.contains("read of thread"), "{fault}");
    // Two writes with different values.
    let twice = |sync: &str| {
        format!(
            "mov.u32 %s, buf; setp.eq.u32 %q, %t, 0; setp.eq.u32 %r, %t, 32; @%q st.shared.u32 [%s], 1; {sync} @%r st.shared.u32 [%s], 2;"
        )
    };
    finds(FaultKind::SharedRace, 64, &twice(""), &twice("bar.sync 0;"));
    // The same value from everyone is common and harmless.
    assert!(run("mov.u32 %s, buf; st.shared.u32 [%s], 7;", 64).is_ok());
}

#[test]
fn shared_races_inside_a_warp_are_found() {
    let exchange = |sync: &str| format!("st.shared.u32 [%s], %t; {sync} xor.b32 %s, %s, 4; ld.shared.u32 %y, [%s];");
    finds(FaultKind::SharedRace, 32, &exchange(""), &exchange("bar.warp.sync 0xffffffff;"));
}

#[test]
fn bytes_of_one_word_do_not_race() {
    let body = "mov.u32 %s, buf; add.u32 %s, %s, %t; st.shared.u8 [%s], %t; ld.shared.u8 %y, [%s];";
    assert!(run(body, 128).is_ok());
}

#[test]
fn named_barriers_and_atomics_order_accesses() {
    // Warp 0 produces, warp 1 consumes; warps 2 and 3 take no part.
    let body = |sync: bool| {
        let (arrive, wait) = if sync { ("bar.arrive 1, 64;", "bar.sync 1, 64;") } else { ("", "") };
        format!(
            "setp.eq.u32 %q, %w, 0; @!%q bra NOT0; st.shared.u32 [%s], %t; {arrive} bra END;
             NOT0: setp.eq.u32 %r, %w, 1; @!%r bra END; {wait} ld.shared.u32 %y, [%s+-128]; END:"
        )
    };
    let fault = run(&body(false), 128).expect_err("nothing orders them");
    assert!(matches!(fault.kind, FaultKind::SharedRace | FaultKind::Uninitialized), "{fault}");
    run(&body(true), 128).unwrap_or_else(|fault| panic!("{fault}"));
    // Atomics of all warps on one word.
    let atomics = |sync: &str| {
        format!(
            "mov.u32 %s, buf; setp.eq.u32 %q, %t, 0; @%q st.shared.u32 [%s], 0; bar.sync 0;
             atom.shared.add.u32 %y, [%s], 1; {sync} ld.shared.u32 %y, [%s];"
        )
    };
    finds(FaultKind::SharedRace, 128, &atomics(""), &atomics("bar.sync 0;"));
}

#[test]
fn divergent_barriers_are_found() {
    let faulty = "setp.lt.u32 %q, %l, 16; @%q bra A; bar.sync 0; bra END; A: bar.sync 0; END:";
    let mended = "setp.lt.u32 %q, %l, 16; @%q bra A; mov.u32 %y, 1; A: bar.sync 0;";
    let fault = finds(FaultKind::DivergentBarrier, 64, faulty, mended);
    assert!(fault.message.contains("lanes"), "{fault}");
}

#[test]
fn barriers_that_not_all_reach_are_a_deadlock() {
    // Warp 1 waits for a barrier that counts more threads than will come.
    finds(FaultKind::Deadlock, 64, "setp.eq.u32 %q, %w, 1; @%q bar.sync 1, 64;", "bar.sync 1, 64;");
    // Threads that ended are not waited for.
    assert!(run("setp.eq.u32 %q, %w, 1; @%q ret; bar.sync 0;", 64).is_ok());
    // Lanes that wait for each other at different instructions.
    let halves = |other: &str, low: &str| {
        format!(
            "setp.lt.u32 %q, %l, 8; @%q bra LOW; shfl.sync.idx.b32 %y, %x, 9, 31, {other}; bra END;
             LOW: shfl.sync.idx.b32 %y, %x, 0, 31, {low}; END:"
        )
    };
    finds(FaultKind::Deadlock, 32, &halves("-1", "0x1ff"), &halves("0xffffff00", "0xff"));
}

#[test]
fn asynchronous_copies_read_before_their_wait_are_found() {
    let copy = |wait: &str, sync: &str| {
        format!(
            "mad.wide.u32 %a, %t, 4, %p; cp.async.ca.shared.global [%s], [%a], 4; cp.async.commit_group;
             {wait} ld.shared.u32 %y, [%s]; {sync}"
        )
    };
    finds(FaultKind::AsyncNotWaited, 32, &copy("", ""), &copy("cp.async.wait_group 0;", ""));
    finds(FaultKind::AsyncNotWaited, 32, &copy("cp.async.wait_group 1;", ""), &copy("cp.async.wait_all;", ""));
    // Waited for by the one who copied, but not passed on to the other warp.
    let other = |sync: &str| {
        format!(
            "mad.wide.u32 %a, %t, 4, %p; cp.async.ca.shared.global [%s], [%a], 4; cp.async.commit_group; cp.async.wait_group 0;
             {sync} xor.b32 %s, %s, 128; ld.shared.u32 %y, [%s];"
        )
    };
    let fault = run(&other(""), 64).expect_err("unordered");
    assert!(
        matches!(fault.kind, FaultKind::SharedRace | FaultKind::AsyncNotWaited | FaultKind::Uninitialized),
        "{fault}"
    );
    run(&other("bar.sync 0;"), 64).unwrap_or_else(|fault| panic!("{fault}"));
}

#[test]
fn a_missing_proxy_fence_before_a_bulk_read_is_found() {
    let store = |fence: &str| {
        format!(
            "mov.u32 %s, buf; mad.lo.u32 %s, %t, 4, %s; st.shared.u32 [%s], %t; {fence} bar.sync 0;
             setp.eq.u32 %q, %t, 0; mov.u32 %s, buf; @!%q bra END;
             cp.async.bulk.global.shared::cta.bulk_group [%p], [%s], 128;
             cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; END:"
        )
    };
    finds(FaultKind::MissingProxyFence, 32, &store(""), &store("fence.proxy.async.shared::cta;"));
}

#[test]
fn bulk_copies_are_found_unless_the_mbarrier_was_waited_for() {
    let copy = |wait: &str| {
        format!(
            "mov.u32 %s, bar; setp.eq.u32 %q, %t, 0; @%q mbarrier.init.shared.b64 [%s], 1; bar.sync 0;
             @!%q bra GO; mbarrier.arrive.expect_tx.shared.b64 %st, [%s], 128; mov.u32 %x, buf;
             cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%x], [%p], 128, [%s];
             GO: {wait} mov.u32 %x, buf; ld.shared.u32 %y, [%x+64];"
        )
    };
    let wait = "WAIT: mbarrier.try_wait.parity.shared.b64 %r, [%s], 0; @!%r bra WAIT;";
    let fault = run(&copy(""), 64).expect_err("not waited for");
    assert!(
        matches!(fault.kind, FaultKind::AsyncNotWaited | FaultKind::SharedRace | FaultKind::Uninitialized),
        "{fault}"
    );
    run(&copy(wait), 64).unwrap_or_else(|fault| panic!("{fault}"));
    // Waiting for a phase that no one completes.
    let never = copy(wait).replace("128, [%s]", "112, [%s]");
    assert_eq!(run(&never, 64).expect_err("16 bytes are missing").kind, FaultKind::Deadlock);
}

#[test]
fn misused_mbarriers_are_found() {
    let body = |init: &str, arrivals: &str| format!("mov.u32 %s, bar; {init} {arrivals}");
    let init = "mbarrier.init.shared.b64 [%s], 2;";
    let arrive = "mbarrier.arrive.shared.b64 %st, [%s];";
    finds(FaultKind::MbarrierMisuse, 1, &body("", arrive), &body(init, arrive));
    finds(
        FaultKind::MbarrierMisuse,
        1,
        &body(init, "mbarrier.arrive.shared.b64 %st, [%s], 3;"),
        &body(init, "mbarrier.arrive.shared.b64 %st, [%s], 2;"),
    );
    finds(FaultKind::MbarrierMisuse, 1, &body("mbarrier.init.shared.b64 [%s], 0;", ""), &body(init, ""));
}

#[test]
fn endless_kernels_run_out_of_budget() {
    let mut device = Device::new();
    device.options.instruction_budget = 1_000_000;
    let fault = run_on(&device, "L: bra L;", &shape(1, 32)).expect_err("endless");
    assert_eq!(fault.kind, FaultKind::Budget, "{fault}");
    assert!(fault.ptx_line > 0);
    assert!(
        run_on(&device, "mov.u32 %y, 1000; L: sub.u32 %y, %y, 1; setp.ne.u32 %q, %y, 0; @%q bra L;", &shape(1, 32))
            .is_ok()
    );
}

#[test]
fn traps_stop_the_kernel_at_their_thread() {
    let fault = run("setp.eq.u32 %q, %t, 37; @%q trap;", 64).expect_err("trap");
    assert_eq!((fault.kind, fault.thread), (FaultKind::Trap, [37, 0, 0]));
}

#[test]
fn without_checks_stray_accesses_are_still_kept_in_the_arena() {
    let mut device = Device::new();
    device.options.checks = Checks::all(Level::Off);
    let wild = "mov.u64 %a, 0x123456789000; ld.global.u32 %y, [%a];";
    assert_eq!(run_on(&device, wild, &shape(1, 32)).expect_err("far outside").kind, FaultKind::OutOfBounds);
    assert!(run_on(&device, "st.shared.u32 [%s], %t; ld.shared.u32 %y, [%s+4];", &shape(1, 64)).is_ok());
    assert_eq!(
        run_on(&device, "ld.shared.u32 %y, [%s+99996];", &shape(1, 64)).expect_err("outside").kind,
        FaultKind::OutOfBounds
    );
}

#[test]
fn the_same_holds_without_avx2() {
    device::rerun_portable("the_same_holds_without_avx2");
}
