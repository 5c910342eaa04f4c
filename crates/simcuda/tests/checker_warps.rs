//! Faults in accesses that a whole warp makes at once, which are checked in fewer steps than a lane each: every one is
//! provoked, and the mended kernel is silent.

mod device;
use device::{Device, ptx, shape};
use simcuda::machine::{Arch, Fault, FaultKind, Report};

/// A kernel over one pointer and 4 KiB of shared memory; each thread has 16 bytes at `%s`.
fn kernel(body: &str) -> String {
    ptx(&format!(
        ".visible .entry k(.param .u64 p) {{
            .reg .b64 %p, %a; .reg .b32 %t, %l, %w, %x, %y, %z, %u, %v, %s, %d, %n; .reg .pred %q, %r;
            .shared .align 16 .b8 buf[4096];
            ld.param.u64 %p, [p]; mov.u32 %t, %tid.x; mov.u32 %l, %laneid; shr.u32 %w, %t, 5; setp.eq.u32 %q, %w, 0;
            setp.lt.u32 %r, %l, 16; mov.u32 %s, buf; mad.lo.u32 %s, %t, 16, %s; mov.u32 %x, 5; mov.u32 %n, 0;
            {body}
            ret; }}"
    ))
}

fn run(body: &str, threads: u32) -> Result<Report, Fault> {
    let device = Device::of(Arch::Sm80);
    let f = device.kernel(&kernel(body));
    let p = device.upload(&[1; 4096]);
    device.run(&f, &shape(1, threads), &[p])
}

/// The faulty body gives the kind, the mended one nothing.
fn finds(kind: FaultKind, threads: u32, faulty: &str, mended: &str) -> Fault {
    let fault = run(faulty, threads).expect_err(faulty);
    assert_eq!(fault.kind, kind, "{fault}\n{faulty}");
    if let Err(fault) = run(mended, threads) {
        panic!("the mended kernel still fails: {fault}\n{mended}");
    }
    fault
}

/// Writes every thread's 16 bytes.
const FILL: &str = "st.shared.v4.u32 [%s], {%x, %x, %x, %x}; bar.sync 0;";

/// Reads of warp 0 in warp 1's 16-byte rows, which lie 512 bytes further: in one run, scattered, at one place, as matrices.
const READS: [&str; 6] = [
    "ld.shared.v4.u32 {%y, %z, %u, %v}, [%s+512];",
    "mov.u32 %d, buf; mad.lo.u32 %d, %t, 8, %d; ld.shared.v2.u32 {%y, %z}, [%d+512];",
    "mov.u32 %d, buf; mad.lo.u32 %d, %t, 4, %d; ld.shared.u32 %y, [%d+516];",
    "ld.shared.u32 %y, [%s+516];",
    "mov.u32 %d, buf; ld.shared.v2.u32 {%y, %z}, [%d+520];",
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%y, %z, %u, %v}, [%s+512];",
];

/// Runs `first` in warp 0 and `second` in warp 1, one after the other in this order, with `sync` between.
fn in_turn(first: &str, sync: &str, second: &str) -> String {
    format!("{FILL} @!%q bra A; {first} A: {sync} @%q bra B; {second} B:")
}

#[test]
fn reads_that_race_with_an_earlier_write_are_found_in_every_form() {
    let write = "mov.u32 %x, 9; st.shared.v4.u32 [%s], {%x, %x, %x, %x};";
    for read in READS {
        // Warp 1 writes its own rows, then warp 0 reads them.
        let body = |sync: &str| format!("{FILL} @%q bra A; {write} A: {sync} bar.warp.sync -1; @!%q bra B; {read} B:");
        // Whichever warp runs first, the pair is unordered.
        let fault = finds(FaultKind::SharedRace, 64, &body(""), &body("bar.sync 0;"));
        assert!(fault.message.contains("of thread"), "{fault}");
    }
}

#[test]
fn writes_and_copies_that_race_with_an_earlier_read_are_found_in_every_form() {
    let writes = [
        "mov.u32 %x, 9; st.shared.v4.u32 [%s], {%x, %x, %x, %x};",
        "mov.u32 %x, 9; mov.u32 %d, buf; mad.lo.u32 %d, %l, 4, %d; st.shared.u32 [%d+512], %x;",
        "mov.u32 %x, 9; st.shared.u32 [%s+4], %x; st.shared.u32 [%s+8], %x;",
        "cp.async.cg.shared.global [%s], [%p], 16; cp.async.wait_all;",
        "cp.async.ca.shared.global [%s+8], [%p], 8; cp.async.ca.shared.global [%s+4], [%p], 4; cp.async.wait_all;",
    ];
    for read in READS {
        for write in writes {
            let fault =
                finds(FaultKind::SharedRace, 64, &in_turn(read, "", write), &in_turn(read, "bar.sync 0;", write));
            assert!(fault.message.contains("read of thread"), "{fault}\n{read}\n{write}");
        }
    }
}

#[test]
fn reads_of_two_warps_are_both_remembered() {
    let own = [
        "ld.shared.v4.u32 {%y, %z, %u, %v}, [%s];",
        "ld.shared.u32 %y, [%s+4];",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%y, %z, %u, %v}, [%s];",
    ];
    // Warp 1 reads what warp 0 has read before it writes there: its own read must not hide the other.
    for read in READS {
        for own in own {
            let second = format!("{own} mov.u32 %x, 9; st.shared.v4.u32 [%s], {{%x, %x, %x, %x}};");
            let (faulty, mended) = (in_turn(read, "", &second), in_turn(read, "bar.sync 0;", &second));
            let fault = finds(FaultKind::SharedRace, 64, &faulty, &mended);
            assert!(fault.message.contains("read of thread"), "{fault}\n{read}\n{own}");
        }
    }
}

#[test]
fn a_read_is_remembered_behind_a_later_one_that_a_named_barrier_orders() {
    let writes = [
        "st.shared.v4.u32 [%s], {%x, %x, %x, %x};",
        "st.shared.u32 [%s+4], %x;",
        "cp.async.cg.shared.global [%s], [%p], 16; cp.async.wait_all;",
    ];
    for write in writes {
        // Warp 0 meets warp 1 until its count is the higher one, and reads; then warp 2 reads, which meets warp 1 before the
        // write: the later of the two reads is ordered, the earlier is not.
        let body = |sync: &str, warp_0: &str| {
            let read = "mov.u32 %d, buf; mad.lo.u32 %d, %l, 16, %d; ld.shared.v4.u32 {%y, %z, %u, %v}, [%d+512];";
            let meet = "bar.sync 2, 64;".repeat(5);
            format!(
                "{FILL} setp.eq.u32 %r, %w, 1; @%q bra READER; @%r bra WRITER;
                 bar.sync 3, 64; {read} {sync} bra END;
                 READER: {meet} {read} {warp_0} bra END;
                 WRITER: {meet} bar.sync 3, 64; {sync} {write} END:"
            )
        };
        let fault =
            finds(FaultKind::SharedRace, 96, &body("bar.sync 1, 64;", ""), &body("bar.sync 1, 96;", "bar.sync 1, 96;"));
        assert!(fault.message.contains("read of thread"), "{fault}\n{write}");
    }
}

#[test]
fn lanes_may_rewrite_their_own_words_but_not_read_a_neighbour_s() {
    for order in ["mov.u32 %n, %l;", "xor.b32 %n, %l, 1;", "xor.b32 %n, %l, 31;"] {
        for guard in ["", "@%r "] {
            let place = format!("{FILL} {order} mov.u32 %d, buf; mad.lo.u32 %d, %n, 4, %d;");
            let rewrite = format!("{guard}ld.shared.u32 %y, [%d]; add.u32 %y, %y, 1; {guard}st.shared.u32 [%d], %y;");
            let body = |sync: &str| {
                format!("{place} {rewrite} {rewrite} {sync} xor.b32 %d, %d, 4; {guard}ld.shared.u32 %z, [%d];")
            };
            finds(FaultKind::SharedRace, 32, &body(""), &body("bar.warp.sync -1;"));
        }
    }
}

#[test]
fn copies_beyond_shared_memory_are_found_at_their_lane() {
    for (cache, bytes) in [("cg", 16), ("ca", 8), ("ca", 4)] {
        // Lane 31 copies to the last 16 bytes, or to those behind them.
        let copy =
            |offset: u32| format!("cp.async.{cache}.shared.global [%s+{offset}], [%p], {bytes}; cp.async.wait_all;");
        let fault = finds(FaultKind::OutOfBounds, 32, &copy(3600), &copy(3584));
        assert_eq!(fault.thread, [31, 0, 0], "{fault}");
    }
}

#[test]
fn rows_that_nothing_wrote_are_found_in_every_form() {
    for read in READS {
        let rows = "setp.ne.u32 %q, %t, 99; @%q st.shared.v4.u32 [%s+512], {%x, %x, %x, %x}; bar.warp.sync -1;";
        finds(FaultKind::Uninitialized, 32, read, &format!("{rows} {read}"));
    }
    // The last word of the last lane alone is missing.
    let fault = run(
        "setp.lt.u32 %q, %t, 31; @%q st.shared.u32 [%s+12], %x; st.shared.v2.u32 [%s], {%x, %x};
        st.shared.u32 [%s+8], %x; bar.warp.sync -1; ld.shared.v4.u32 {%y, %z, %u, %v}, [%s];",
        32,
    );
    let fault = fault.expect_err("one word is missing");
    assert_eq!((fault.kind, fault.address, fault.thread), (FaultKind::Uninitialized, Some(508), [31, 0, 0]), "{fault}");
}

#[test]
fn asynchronous_groups_are_counted_for_each_lane() {
    // Lanes below 16 commit a second group. One group may stay pending: the second of theirs, but the only one of the others.
    let copy = |keep: u32| {
        format!(
            "cp.async.cg.shared.global [%s], [%p], 16; cp.async.commit_group; @!%r bra A;
             cp.async.cg.shared.global [%s+2048], [%p], 16; cp.async.commit_group; A: bar.warp.sync -1;
             cp.async.wait_group {keep}; ld.shared.v4.u32 {{%y, %z, %u, %v}}, [%s];"
        )
    };
    let fault = finds(FaultKind::AsyncNotWaited, 32, &copy(1), &copy(0));
    assert_eq!(fault.thread, [16, 0, 0], "{fault}");
    let lower = copy(1).replace("ld.shared.v4", "@%r ld.shared.v4");
    run(&lower, 32).unwrap_or_else(|fault| panic!("{fault}"));
    let second = lower.replace("[%s];", "[%s+2048];");
    assert_eq!(run(&second, 32).expect_err("the second group is pending").kind, FaultKind::AsyncNotWaited);
    // Two copies of one lane in a row: what is pending cannot be the target of another.
    let twice = |wait: &str| {
        format!(
            "cp.async.cg.shared.global [%s], [%p], 16; {wait} cp.async.cg.shared.global [%s], [%p], 16; cp.async.wait_all;"
        )
    };
    finds(FaultKind::AsyncNotWaited, 32, &twice(""), &twice("cp.async.wait_all;"));
}

#[test]
fn copies_wait_for_their_own_commit_and_no_other_lane_s() {
    // Lanes from 16 on copy; all lanes commit, or those below 16 only, or nobody.
    let copy = |commit: &str| {
        format!(
            "@%r bra A; cp.async.cg.shared.global [%s], [%p], 16; A: bar.warp.sync -1; {commit} bar.warp.sync -1;
             cp.async.wait_group 0; @!%r ld.shared.v4.u32 {{%y, %z, %u, %v}}, [%s];"
        )
    };
    for faulty in ["", "@!%r bra B; cp.async.commit_group; B:"] {
        finds(FaultKind::AsyncNotWaited, 32, &copy(faulty), &copy("cp.async.commit_group;"));
    }
}

#[test]
fn groups_that_stay_pending_are_counted_again_by_the_next_wait() {
    let stage = |at: u32| format!("cp.async.cg.shared.global [%s+{at}], [%p], 16; cp.async.commit_group;");
    let stages = [0, 1024, 2048].map(stage).concat();
    let body =
        |keep: u32| format!("{stages} cp.async.wait_group 2; cp.async.wait_group {keep}; ld.shared.u32 %y, [%s+1024];");
    finds(FaultKind::AsyncNotWaited, 32, &body(2), &body(1));
}

#[test]
fn copies_match_their_source_and_destination_displacements() {
    let body = "add.u32 %d, %s, 32; add.u64 %a, %p, 64; cp.async.cg.shared.global [%d+-32], [%a+16], 16;
        cp.async.ca.shared.global [%d+512], [%a+-8], 8; cp.async.wait_all; ld.shared.v4.u32 {%x, %z, %u, %v}, [%s];
        ld.shared.v2.u32 {%y, %n}, [%s+544]; bar.warp.sync -1; mad.wide.u32 %a, %t, 32, %p;
        st.global.v4.u32 [%a+512], {%x, %z, %u, %v}; st.global.v2.u32 [%a+528], {%y, %n};";
    let device = Device::of(Arch::Sm80);
    let f = device.kernel(&kernel(body));
    let p = device.upload(&(0..4096).map(|k| k as u8).collect::<Vec<u8>>());
    device.run(&f, &shape(1, 1), &[p]).unwrap_or_else(|fault| panic!("{fault}"));
    let expected: Vec<u8> = (80..96).chain(56..64).collect();
    assert_eq!(device.download(p + 512, 24), expected);
}

#[test]
fn copies_to_misaligned_places_and_of_odd_sizes_are_found() {
    for (cache, bytes, offset) in [("cg", 16, 8), ("ca", 8, 4), ("ca", 4, 2)] {
        let copy = |offset: u32| format!("cp.async.{cache}.shared.global [%s+{offset}], [%p], {bytes};");
        finds(FaultKind::OutOfBounds, 32, &copy(offset), &copy(0));
    }
    let short = |read: u32| format!("mov.u32 %y, {read}; cp.async.ca.shared.global [%s], [%p], 8, %y;");
    finds(FaultKind::OutOfBounds, 32, &short(3), &short(4));
}

#[test]
fn short_copies_match_zero_filled_bytes() {
    // Each lane reads 16, 8, 4 or 0 bytes of the ones in memory, and finds zeros behind them.
    let body = "and.b32 %n, %l, 3; mov.u32 %y, 16; shr.u32 %y, %y, %n; setp.eq.u32 %q, %n, 3; selp.u32 %y, 0, %y, %q;
        cp.async.cg.shared.global [%s], [%p], 16, %y; cp.async.wait_all; ld.shared.v4.u32 {%x, %z, %u, %v}, [%s];
        mad.wide.u32 %a, %t, 16, %p; bar.warp.sync -1; st.global.v4.u32 [%a+512], {%x, %z, %u, %v};";
    let device = Device::of(Arch::Sm80);
    let f = device.kernel(&kernel(body));
    let p = device.upload(&[1; 4096]);
    let report = device.run(&f, &shape(1, 32), &[p]).unwrap_or_else(|fault| panic!("{fault}"));
    for (lane, row) in device.download(p + 512, 512).chunks(16).enumerate() {
        let ones = [16, 8, 4, 0][lane % 4];
        let expected: Vec<u8> = (0..16).map(|k| u8::from(k < ones)).collect();
        assert_eq!(row, expected, "lane {lane}");
    }
    assert_eq!((report.global_load_bytes, report.async_copies), (8 * (16 + 8 + 4), 1));
}

#[test]
fn scattered_global_accesses_are_found_at_their_lane() {
    // 132 bytes apart, lane 31 lies at 4092: the last word. One byte further is outside.
    let access =
        |form: &str, offset: u32| format!("mad.wide.u32 %a, %t, 132, %p; {}", form.replace('@', &offset.to_string()));
    for form in ["ld.global.u32 %y, [%a+@];", "st.global.u32 [%a+@], %x;", "ld.u32 %y, [%a+@];"] {
        let fault = finds(FaultKind::OutOfBounds, 32, &access(form, 4), &access(form, 0));
        assert_eq!(fault.thread, [31, 0, 0], "{fault}");
        assert_eq!(fault.address, fault.allocation.map(|a| a.base + 4096), "{fault}");
    }
    let wild =
        "setp.eq.u32 %q, %t, 9; mad.wide.u32 %a, %t, 132, %p; @%q mov.u64 %a, 0x123456789000; ld.global.u32 %y, [%a];";
    assert_eq!(run(wild, 32).expect_err("far outside").thread, [9, 0, 0]);
}

#[test]
fn scattered_stores_initialise_their_own_bytes_only() {
    let device = Device::of(Arch::Sm80);
    let store = "mad.wide.u32 %a, %t, 24, %p; st.global.v2.u32 [%a], {%t, %x};";
    let f = device.kernel(&kernel(&format!("{store} ld.global.v2.u32 {{%y, %z}}, [%a];")));
    let p = device.memory.alloc(4096).expect("fits");
    device.run(&f, &shape(1, 32), &[p]).unwrap_or_else(|fault| panic!("{fault}"));
    let beside = device.kernel(&kernel("mad.wide.u32 %a, %t, 24, %p; ld.global.u32 %y, [%a+8];"));
    let fault = device.run(&beside, &shape(1, 32), &[p]).expect_err("nothing wrote these");
    assert_eq!(
        (fault.kind, fault.address, fault.thread),
        (FaultKind::Uninitialized, Some(p + 8), [0, 0, 0]),
        "{fault}"
    );
}

#[test]
fn the_same_holds_without_avx2() {
    device::rerun_portable("the_same_holds_without_avx2");
}
