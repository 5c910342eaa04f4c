//! Values that nothing wrote: no fault as long as nothing depends on them, in kernels of the shapes that real ones have; and a
//! fault as soon as a branch, an address, an atomic or a store to global memory does.

mod device;
use device::{Device, ptx, shape};
use simcuda::machine::{Arch, Check, Checks, Fault, FaultKind, Level, Report};

/// A kernel over `%p`, of whose 1024 bytes the first 512 are written with ones, and `%o`, 1024 bytes of zeros.
fn kernel(body: &str) -> String {
    ptx(&format!(
        ".file 1 \"undefined.cu\"
        .visible .entry k(.param .u64 p, .param .u64 o) {{
            .reg .b64 %p, %o, %a, %d<8>; .reg .b32 %t, %s, %x, %y, %z, %r<40>; .reg .b16 %h<8>; .reg .f32 %f<24>;
            .reg .pred %q, %u, %v;
            .shared .align 16 .b8 buf[4096]; .local .align 8 .b8 spill[64];
            ld.param.u64 %p, [p]; ld.param.u64 %o, [o]; mov.u32 %t, %tid.x;
            mad.wide.u32 %p, %t, 4, %p; mad.wide.u32 %o, %t, 4, %o; mov.u32 %s, buf; mad.lo.u32 %s, %t, 4, %s;
            .loc 1 42 7
            {body}
            ret; }}"
    ))
}

struct Run {
    result: Result<Report, Fault>,
    out: Vec<u32>,
    input: u64,
}

fn run_with(checks: Checks, body: &str, threads: u32) -> Run {
    let mut device = Device::of(Arch::Sm90);
    device.options.checks = checks;
    let f = device.kernel(&kernel(body));
    let input = device.memory.alloc(1024).expect("fits");
    device.memory.write(input, &[1; 512]).expect("inside");
    let output = device.words(&[0; 256]);
    let result = device.run(&f, &shape(1, threads), &[input, output]);
    Run { result, out: device.read_words(output, 256), input }
}

fn run(body: &str, threads: u32) -> Run {
    run_with(Checks::default(), body, threads)
}

/// Runs a body that must go through; returns what it stored.
fn passes(body: &str, threads: u32) -> Vec<u32> {
    let run = run(body, threads);
    match run.result {
        Ok(report) => assert_eq!(report.warnings, []),
        Err(fault) => panic!("{fault}\n{body}"),
    }
    run.out
}

/// Runs a body that must be stopped because of a value that nothing wrote.
fn stops(body: &str) -> Fault {
    let fault = run(body, 32).result.expect_err(body);
    assert_eq!(fault.kind, FaultKind::Uninitialized, "{fault}\n{body}");
    fault
}

/// Loads a word that nothing wrote.
const LOAD: &str = "ld.global.u32 %x, [%p+512];";

#[test]
fn a_prefetched_value_that_nothing_uses_is_no_fault() {
    // A loop that loads the next tile before it adds this one: its last load is for nothing.
    let body = "mov.u32 %r0, 0; mov.u32 %y, 0; ld.global.u32 %x, [%p]; mov.u64 %a, %p;
        L: add.u64 %a, %a, 128; add.u32 %y, %y, %x; ld.global.u32 %x, [%a]; add.u32 %r0, %r0, 1;
        setp.lt.u32 %q, %r0, 4; @%q bra L; st.global.u32 [%o], %y;";
    assert_eq!(passes(body, 32)[..32], [0x0404_0404; 32]);
    let used = body.replace("st.global.u32 [%o], %y;", "add.u32 %y, %y, %x; st.global.u32 [%o], %y;");
    stops(&used);
}

#[test]
fn a_value_that_nothing_wrote_is_a_fault_where_something_depends_on_it() {
    for (use_of_it, what) in [
        ("st.global.u32 [%o], %x;", "store to global memory"),
        ("add.f32 %f0, %x, 0f3F800000; st.global.f32 [%o], %f0;", "store to global memory"),
        ("setp.eq.u32 %q, %x, 0; @%q bra E; mov.u32 %y, 1; E:", "branch"),
        ("setp.eq.u32 %q, %x, 0; @%q exit;", "branch"),
        ("setp.eq.u32 %q, %x, 0; @%q st.global.u32 [%o], %t;", "guard"),
        ("setp.eq.u32 %q, %x, 0; and.pred %u, %q, %q; @!%u bra E; mov.u32 %y, 1; E:", "branch"),
        ("and.b32 %y, %x, 60; cvt.u64.u32 %a, %y; add.u64 %a, %a, %o; ld.global.u32 %z, [%a];", "address"),
        ("and.b32 %y, %x, 60; add.u32 %y, %y, %s; st.shared.u32 [%y], %t;", "address"),
        ("atom.global.add.u32 %y, [%o], %x;", "atomic"),
        ("red.global.add.u32 [%o], %x;", "atomic"),
        ("shfl.sync.bfly.b32 %y, %x, 1, 31, -1; st.global.u32 [%o], %y;", "store to global memory"),
        ("setp.eq.u32 %q, %x, 0; vote.sync.any.pred %u, %q, -1; @%u bra E; mov.u32 %y, 1; E:", "branch"),
        ("redux.sync.add.u32 %y, %x, -1; st.global.u32 [%o], %y;", "store to global memory"),
        ("setp.eq.u32 %q, %x, 0; selp.b32 %y, 1, 2, %q; st.global.u32 [%o], %y;", "store to global memory"),
        ("setp.eq.u32 %q, %x, 0; mov.u32 %y, 3; @%q mov.u32 %y, 4; st.global.u32 [%o], %y;", "store to global memory"),
        ("st.local.u32 [spill+4], %x; ld.local.u32 %y, [spill+4]; st.global.u32 [%o], %y;", "store to global memory"),
        ("st.shared.u32 [%s], %x; ld.shared.u32 %y, [%s]; st.global.u32 [%o], %y;", "store to global memory"),
        ("and.b32 %y, %x, 3; bar.sync %y;", "barrier"),
        ("setp.eq.u32 %q, %x, 0; bar.red.popc.u32 %y, 0, %q;", "barrier"),
    ] {
        let fault = stops(&format!("{LOAD} {use_of_it}"));
        assert!(fault.message.contains(what), "{fault}\n{use_of_it}");
        assert!(fault.message.contains("undefined.cu:42"), "{fault}");
    }
}

#[test]
fn the_report_names_where_the_value_was_read_and_what_depends_on_it() {
    let run = run(&format!("{LOAD}\n add.u32 %y, %x, 1;\n setp.eq.u32 %q, %t, 5;\n @%q st.global.u32 [%o], %y;"), 32);
    let fault = run.result.expect_err("thread 5 stores it");
    assert_eq!((fault.thread, fault.address), ([5, 0, 0], Some(run.input + 512)), "{fault}");
    assert_eq!(fault.allocation.map(|a| (a.base, a.size_bytes)), Some((run.input, 1024)));
    let lines: Vec<String> = kernel(&format!("{LOAD}\n")).lines().map(str::to_owned).collect();
    let load = lines.iter().position(|line| line.contains(LOAD)).expect("the load") + 1;
    assert!(fault.message.contains(&format!("ptx line {load} ")), "{fault}");
    assert_eq!(fault.ptx_line as usize, load + 3, "{fault}");
}

#[test]
fn only_the_bits_that_nothing_wrote_are_undefined() {
    // Bytes 512.. are not written: of a word at 510 the upper half is undefined.
    let word = "setp.eq.u32 %v, %t, 0; mov.u32 %x, 0; @%v ld.global.u16 %x, [%p+510]; @%v ld.global.u16 %y, [%p+512];
        @!%v mov.u32 %y, 0; shl.b32 %y, %y, 16; or.b32 %x, %x, %y;";
    let store = "st.global.u32 [%o], %z;";
    for defined in [
        "and.b32 %z, %x, 0xffff;",
        "and.b32 %z, 65535, %x; or.b32 %z, %z, 0x10000;",
        "or.b32 %z, %x, 0xffff0000;",
        "lop3.b32 %z, %x, 0xffff, %t, 0xc0;",
        "lop3.b32 %z, %x, 0xffff, 3, 0xea;",
        "shl.b32 %z, %x, 16;",
        "bfe.u32 %z, %x, 3, 12;",
        "prmt.b32 %z, %x, %t, 0x5410;",
        "shf.l.wrap.b32 %z, %x, %x, 16; and.b32 %z, %z, 0xffff0000;",
        "mov.b32 {%h0, %h1}, %x; cvt.u32.u16 %z, %h0;",
        "mov.b32 {%h0, %h1}, %x; cvt.f32.f16 %f0, %h0; mov.b32 %z, %f0;",
        "cvt.u32.u16 %z, %x;",
        "fma.rn.f16x2 %z, %x, %x, %x; and.b32 %z, %z, 0xffff;",
        "xor.b32 %z, %x, %t; mov.b32 {%h0, %h1}, %z; mov.b32 %z, {%h0, %h0};",
        "cvt.u64.u32 %d0, %x; shl.b64 %d0, %d0, 48; shr.u64 %d0, %d0, 48; cvt.u32.u64 %z, %d0;",
        "mov.b64 %d0, {%t, %x}; mov.b64 {%z, %y}, %d0;",
        "setp.eq.u32 %q, %t, 99; selp.b32 %z, %x, %t, %q;",
        "mov.u32 %z, %x; mov.u32 %z, 7;",
        // The other predicate decides alone.
        "setp.ne.u32 %q, %t, 0; setp.gt.and.u32 %u, %x, 5, %q; selp.u32 %z, 1, 2, %u;",
        "setp.eq.u32 %q, %t, 0; setp.gt.or.u32 %u, %x, 5, %q; selp.u32 %z, 1, 2, %u;",
        "setp.eq.u32 %q, %t, 0; setp.gt.and.u32 %u, %x, 5, !%q; selp.u32 %z, 1, 2, %u;",
        "setp.ne.u32 %q, %t, 0; setp.gt.u32 %u, %x, 5; and.pred %u, %u, %q; selp.u32 %z, 1, 2, %u;",
    ] {
        passes(&format!("{word} {defined} {store}"), 32);
    }
    for undefined in [
        "and.b32 %z, %x, 0x1ffff;",
        "or.b32 %z, %x, 0xffff;",
        "lop3.b32 %z, %x, 0xffff, %t, 0x3c;",
        "shl.b32 %z, %x, 15;",
        "bfe.u32 %z, %x, 3, 14;",
        "bfe.s32 %z, %x, 3, 14;",
        "prmt.b32 %z, %x, %t, 0x5420;",
        "prmt.b32 %z, %t, %t, %x;",
        "shl.b32 %z, %t, %x;",
        "mov.b32 {%h0, %h1}, %x; cvt.u32.u16 %z, %h1;",
        "mov.b32 {%h0, %h1}, %x; cvt.f32.f16 %f0, %h1; mov.b32 %z, %f0;",
        "fma.rn.f16x2 %z, %x, %x, %x; shr.u32 %z, %z, 16;",
        "add.u32 %z, %x, 1;",
        "cvt.u64.u32 %d0, %x; shl.b64 %d0, %d0, 8; shr.u64 %d0, %d0, 24; cvt.u32.u64 %z, %d0;",
        "setp.eq.u32 %q, %t, 0; selp.b32 %z, %x, %t, %q;",
        "setp.eq.u32 %q, %t, 0; setp.gt.and.u32 %u, %x, 5, %q; selp.u32 %z, 1, 2, %u;",
        "setp.ne.u32 %q, %t, 0; setp.gt.or.u32 %u, %x, 5, %q; selp.u32 %z, 1, 2, %u;",
        "setp.ne.u32 %q, %t, 0; setp.gt.xor.u32 %u, %x, 5, %q; selp.u32 %z, 1, 2, %u;",
    ] {
        stops(&format!("{word} {undefined} {store}"));
    }
}

/// Loads fragments of A from rows of 32 bytes in shared memory, of which `rows` are written, and of B of ones.
fn tile(rows: u32) -> String {
    format!(
        "mov.u32 %r30, buf; shl.b32 %r31, %t, 5; add.u32 %r31, %r31, %r30;
         setp.lt.u32 %q, %t, {rows}; mov.u32 %r32, 0x3c003c00;
         @%q st.shared.v4.u32 [%r31], {{%r32, %r32, %r32, %r32}}; @%q st.shared.v4.u32 [%r31+16], {{%r32, %r32, %r32, %r32}};
         bar.sync 0;
         and.b32 %r33, %t, 15; shl.b32 %r33, %r33, 5; shr.u32 %r34, %t, 4; shl.b32 %r34, %r34, 4;
         add.u32 %r33, %r33, %r34; add.u32 %r33, %r33, %r30;
         ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r0, %r1, %r2, %r3}}, [%r33];
         mov.f32 %f0, 0f00000000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;
         mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {{%f0, %f1, %f2, %f3}}, {{%r0, %r1, %r2, %r3}}, {{%r32, %r32}},
            {{%f0, %f1, %f2, %f3}};"
    )
}

#[test]
fn tile_rows_that_are_never_written_are_no_fault_if_their_sums_are_dropped() {
    // Rows 0 to 7 are in the first two sums of each lane, rows 8 to 15 in the others; 11 rows are written.
    let store = "st.global.f32 [%o], %f0; shr.u32 %x, %t, 2; add.u32 %x, %x, 8; setp.lt.u32 %q, %x, 11;
        @%q st.global.f32 [%o+256], %f2;";
    let out = passes(&format!("{} {store}", tile(11)), 32);
    assert_eq!(out[..32], [16f32.to_bits(); 32]);
    let sums = |lane: usize| if lane / 4 + 8 < 11 { 16f32.to_bits() } else { 0 };
    assert_eq!(out[64..96], std::array::from_fn::<u32, 32, _>(sums));
    let fault = stops(&format!("{} {store}", tile(10)));
    assert_eq!(fault.thread, [8, 0, 0], "row 10 begins in lane 8: {fault}");
    // The same sums with integers, of eight rows only, and through the fragments of `wmma`.
    let bytes = "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%r4, %r5}, {%r0}, {%r32}, {%t, %t};
        shr.u32 %x, %t, 2; setp.lt.u32 %q, %x, 5; @%q st.global.u32 [%o], %r4;";
    passes(&format!("{} {bytes}", tile(5)), 32);
    stops(&format!("{} {bytes}", tile(4)));
}

#[test]
fn wmma_fragments_keep_undefined_rows_apart() {
    let names = |letter: char| (0..8).map(|n| format!("%{letter}{n}")).collect::<Vec<_>>().join(", ");
    let accumulators = (0..8).map(|n| format!("%f{}", n + 8)).collect::<Vec<_>>().join(", ");
    let body = |rows: u32| {
        format!(
            "mov.u32 %r30, buf; shl.b32 %r31, %t, 5; add.u32 %r31, %r31, %r30; mov.u32 %r32, 0x3c003c00;
             setp.lt.u32 %q, %t, {rows};
             @%q st.shared.v4.u32 [%r31], {{%r32, %r32, %r32, %r32}}; @%q st.shared.v4.u32 [%r31+16], {{%r32, %r32, %r32, %r32}};
             bar.sync 0;
             wmma.load.a.sync.aligned.row.m16n16k16.shared.f16 {{{r}}}, [%r30], 16;
             mov.u32 %r8, %r32; mov.u32 %r9, %r32; mov.u32 %r10, %r32; mov.u32 %r11, %r32;
             mov.u32 %r12, %r32; mov.u32 %r13, %r32; mov.u32 %r14, %r32; mov.u32 %r15, %r32;
             mov.f32 %f0, 0f00000000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;
             mov.f32 %f4, %f0; mov.f32 %f5, %f0; mov.f32 %f6, %f0; mov.f32 %f7, %f0;
             wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {{{accumulators}}}, {{{r}}},
                {{%r8, %r9, %r10, %r11, %r12, %r13, %r14, %r15}}, {{{f}}};
             add.u32 %r30, %r30, 1024;
             wmma.store.d.sync.aligned.row.m16n16k16.shared.f32 [%r30], {{{accumulators}}}, 16;
             bar.sync 0; shl.b32 %r31, %t, 6; add.u32 %r31, %r31, %r30; ld.shared.f32 %f0, [%r31];
             setp.lt.u32 %q, %t, 9; @%q st.global.f32 [%o], %f0;",
            r = names('r'),
            f = names('f'),
        )
    };
    // Only threads 0 to 15 have a row of the result; the others read what nothing wrote and drop it.
    let out = passes(&body(9), 32);
    assert_eq!(out[..10], std::array::from_fn::<u32, 10, _>(|row| if row < 9 { 16f32.to_bits() } else { 0 }));
    assert_eq!(stops(&body(8)).thread, [8, 0, 0]);
}

#[test]
fn padded_rows_are_no_fault_if_nothing_leaves_them() {
    // Four lanes per row, of eight rows in global memory of which four are written: copied asynchronously, reduced over the row,
    // exchanged through shared memory, and stored where the row is a real one.
    let body = |rows: u32| {
        format!(
            "cp.async.ca.shared.global [%s], [%p+448], 4; cp.async.commit_group; cp.async.wait_group 0; bar.warp.sync -1;
             ld.shared.f32 %f0, [%s]; shfl.sync.bfly.b32 %f1, %f0, 1, 31, -1; max.f32 %f0, %f0, %f1;
             shfl.sync.bfly.b32 %f1, %f0, 2, 31, -1; max.f32 %f0, %f0, %f1;
             setp.eq.f32 %q, %f0, 0fFF800000; selp.f32 %f0, 0f00000000, %f0, %q; ex2.approx.f32 %f0, %f0;
             st.shared.f32 [%s+512], %f0; bar.sync 0; ld.shared.f32 %f2, [%s+512];
             shr.u32 %x, %t, 2; setp.lt.u32 %u, %x, {rows}; @%u st.global.f32 [%o], %f2;"
        )
    };
    let out = passes(&body(4), 32);
    assert!(out[..16].iter().all(|&x| x == 1f32.to_bits()) && out[16..32] == [0; 16], "{out:x?}");
    assert_eq!(stops(&body(5)).thread, [16, 0, 0]);
}

#[test]
fn a_warp_is_clean_again_when_its_registers_and_its_memory_are() {
    let again = "st.shared.u32 [%s], %x; st.local.u32 [spill], %x; mov.u32 %x, 5; st.shared.u32 [%s], %x; st.local.u32 [spill], %x;
        mov.u32 %r0, 0; L: add.u32 %r0, %r0, 1; setp.lt.u32 %q, %r0, 1000; @%q bra L;
        ld.shared.u32 %y, [%s]; ld.local.u32 %z, [spill]; add.u32 %y, %y, %z; st.global.u32 [%o], %y;";
    assert_eq!(passes(&format!("{LOAD} {again}"), 32)[..32], [10; 32]);
    // Loads of what was written since give defined values.
    assert_eq!(
        passes(&format!("{LOAD} st.global.u32 [%p+512], %t; ld.global.u32 %x, [%p+512]; st.global.u32 [%o], %x;"), 32)
            [31],
        31
    );
}

#[test]
fn levels_stop_count_or_ignore_by_kind_and_kernel() {
    let store = format!("{LOAD} st.global.u32 [%o], %x;");
    let warned = |checks: Checks, body: &str| {
        let report = run_with(checks, body, 32).result.unwrap_or_else(|fault| panic!("{fault}"));
        report.warnings.iter().map(|w| (w.fault.kind, w.count)).collect::<Vec<_>>()
    };
    let fault = |checks: Checks, body: &str| run_with(checks, body, 32).result.expect_err(body).kind;
    let one = |check, level| Checks::default().with(check, level);
    assert_eq!(warned(one(Check::Init, Level::Warn), &store), [(FaultKind::Uninitialized, 32)]);
    assert_eq!(warned(one(Check::Init, Level::Off), &store), []);
    assert_eq!(warned(Checks::default().with_kernels("k*", Check::Init, Level::Off), &store), []);
    assert_eq!(
        fault(Checks::default().with_kernels("other", Check::Init, Level::Off), &store),
        FaultKind::Uninitialized
    );
    // At the load, whether anything depends on it or not.
    assert_eq!(warned(one(Check::Load, Level::Warn), LOAD), [(FaultKind::Uninitialized, 32)]);
    assert_eq!(fault(Checks::all(Level::Fatal), LOAD), FaultKind::Uninitialized);
    // A red zone lies behind the 1024 bytes.
    let outside = "st.global.u32 [%p+1020], %t;";
    assert_eq!(fault(one(Check::Init, Level::Off), outside), FaultKind::OutOfBounds);
    assert_eq!(warned(one(Check::Bounds, Level::Warn), outside), [(FaultKind::OutOfBounds, 31)]);
    let race = "mov.u32 %y, buf; st.shared.u32 [%y], %t;";
    assert_eq!(warned(Checks::default(), race), [], "lanes of one instruction do not race");
    let race = "mov.u32 %y, buf; st.shared.u32 [%y], %t; st.shared.u32 [%s], %t;";
    assert_eq!(fault(Checks::default(), race), FaultKind::SharedRace);
    assert_eq!(warned(one(Check::Race, Level::Warn), race), [(FaultKind::SharedRace, 1)]);
    let pending = "cp.async.ca.shared.global [%s], [%p], 4; ld.shared.u32 %x, [%s];";
    assert_eq!(fault(one(Check::Race, Level::Warn), pending), FaultKind::AsyncNotWaited);
    assert_eq!(warned(one(Check::Async, Level::Warn), pending), [(FaultKind::AsyncNotWaited, 32)]);
    // Two halves of a warp at two places of one barrier.
    let divergent = "setp.lt.u32 %q, %t, 16; @%q bra A; bar.sync 0; bra E; A: mov.u32 %y, 1; bar.sync 0; E: st.global.u32 [%o], %t;";
    assert_eq!(fault(Checks::default(), divergent), FaultKind::DivergentBarrier);
    assert_eq!(warned(one(Check::Barrier, Level::Warn), divergent), [(FaultKind::DivergentBarrier, 1)]);
    assert_eq!(warned(one(Check::Barrier, Level::Off), divergent), []);
    // What cannot be gone on with is a fault at every level.
    assert_eq!(fault(Checks::all(Level::Off), "mov.u64 %a, 64; ld.global.u32 %x, [%a];"), FaultKind::OutOfBounds);
    assert_eq!(fault(Checks::all(Level::Off), "trap;"), FaultKind::Trap);
}

#[test]
fn the_same_holds_without_avx2() {
    device::rerun_portable("the_same_holds_without_avx2");
}
