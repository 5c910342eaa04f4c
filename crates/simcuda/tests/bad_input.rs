//! Bad input: a typed error for each, and no crash.

mod device;
use device::{Device, ptx, shape};
use proptest::prelude::*;
use simcuda::machine::{Arch, FaultKind, LaunchConfig, Module};

fn entry(body: &str) -> String {
    ptx(&format!(
        ".visible .entry k(.param .u64 p) {{ .reg .b64 %d<4>; .reg .b32 %r<8>; .reg .b16 %h<3>; .reg .pred %p<3>; \
         {body} ret; }}"
    ))
}

#[test]
fn malformed_modules_are_refused_with_their_line() {
    let device = Device::new();
    let bodies = [
        ("frobnicate.b32 %r1, %r2;", "PTX instruction"),
        ("add.s32 %r1, %r2;", "type or number"),
        ("add.s32 %r1, %r2, %d1;", "at most 32 bits"),
        ("add.s64 %d1, %d2, %r1;", "64-bit register"),
        ("mov.u32 %r1, nothing;", "nothing"),
        ("bra NOWHERE;", "NOWHERE"),
        ("setp.zz.s32 %p1, %r1, %r2;", "comparison operator"),
        ("ld.global.u32 %r1, %r2;", "address"),
        ("ld.global.v2.u32 {%r1}, [%d1];", "destinations"),
        ("ld.global.u32 %r1, [%r2];", "64-bit address"),
        ("lop3.b32 %r1, %r2, %r3, %r4, 300;", "8 bits"),
        ("cp.async.ca.shared.global [%r1], [%d1], 5;", "size"),
        ("cp.async.cg.shared.global [%r1], [%d1], 8;", "size"),
        ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r1}, {%r1}, {%r1}, {%r1};", "4 registers"),
        ("mov.b32 {%h1, %h2}, %d1; cvt.f32.f16 %r1, %h1; cvt.f32.f16 %r2, %h2;", "at most 32 bits"),
        ("mov.b32 {%p1, %h2}, %r3; cvt.f32.f16 %r1, %p1; cvt.f32.f16 %r2, %h2;", "at most 32 bits"),
        ("call nowhere;", "nowhere"),
        (".bogus 3;", ".bogus"),
    ];
    for (body, part) in bodies {
        let error = Module::load(&device.memory, &entry(body), "bad.ptx").expect_err(body);
        assert!(error.message.contains(part), "{body}: {error}");
        assert_eq!(error.line, 4, "{body}: {error}");
        assert!(error.to_string().starts_with("bad.ptx:4: "));
    }
    let recursive = ptx(".func f() { call f; ret; }\n.entry k() { call f; ret; }");
    assert!(Module::load(&device.memory, &recursive, "bad.ptx").expect_err("recursion").message.contains("recursion"));
    let nested = ptx(&format!(".global .b8 x[1] = {}1;", "{".repeat(100_000)));
    assert!(Module::load(&device.memory, &nested, "bad.ptx").expect_err("braces").message.contains("nested"));
    for text in [".global .align 9223372036854775808 .b8 x;", ".entry k(.param .b8 p[40000]) { ret; }"] {
        assert!(Module::load(&device.memory, &ptx(text), "bad.ptx").expect_err(text).message.contains("expected"));
    }
    let before = device.memory.info();
    let huge = ptx(".global .b8 big[1000000000];");
    assert!(Module::load(&device.memory, &huge, "bad.ptx").expect_err("too large").out_of_memory);
    assert_eq!(device.memory.info(), before, "a refused module keeps no memory");
}

#[test]
fn unsupported_instructions_fail_where_they_are_reached() {
    let device = Device::new();
    let text = entry("setp.eq.u32 %p1, %r1, 77; @%p1 tex.1d.v4.s32.s32 {%r1, %r2, %r3, %r4}, [p, {%r5}];");
    let f = device.kernel(&text);
    assert!(device.run(&f, &shape(1, 32), &[0]).is_ok(), "never reached");
    let f = device.kernel(&entry("wgmma.fence.sync.aligned;"));
    let fault = device.run(&f, &shape(1, 32), &[0]).expect_err("reached");
    assert_eq!((fault.kind, fault.ptx_line), (FaultKind::Unsupported, 4));
    assert!(fault.message.contains("wgmma.fence.sync.aligned"), "{fault}");
}

#[test]
fn impossible_launches_are_refused() {
    let device = Device::of(Arch::Sm90);
    let f = device.kernel(&ptx(
        ".entry k(.param .u64 p) .maxntid 128 { .shared .b8 s[1024]; .reg .b32 %r; st.shared.b8 [s], 0; ret; }",
    ));
    let run = |config: &LaunchConfig, args: &[u64]| device.run(&f, config, args).map(drop).map_err(|f| f.kind);
    let ok = shape(1, 128);
    assert_eq!(run(&ok, &[0]), Ok(()));
    assert_eq!(run(&ok, &[]), Err(FaultKind::InvalidLaunch));
    assert_eq!(run(&ok, &[0, 0]), Err(FaultKind::InvalidLaunch));
    assert_eq!(run(&shape(1, 129), &[0]), Err(FaultKind::InvalidLaunch));
    assert_eq!(run(&shape(0, 128), &[0]), Err(FaultKind::InvalidLaunch));
    assert_eq!(run(&shape(1, 0), &[0]), Err(FaultKind::InvalidLaunch));
    assert_eq!(run(&LaunchConfig::new([1, 70000, 1], [1, 1, 1]), &[0]), Err(FaultKind::InvalidLaunch));
    assert_eq!(run(&LaunchConfig::new([1, 1, 1], [1, 1, 65]), &[0]), Err(FaultKind::InvalidLaunch));
    assert_eq!(run(&LaunchConfig::new([1, 1, 1], [u32::MAX, u32::MAX, 2]), &[0]), Err(FaultKind::InvalidLaunch));
    assert_eq!(
        run(&LaunchConfig { dynamic_shared_bytes: 300_000, ..ok.clone() }, &[0]),
        Err(FaultKind::OutOfResources)
    );
    assert_eq!(run(&LaunchConfig { cluster: [2, 1, 1], ..ok.clone() }, &[0]), Err(FaultKind::InvalidLaunch));
    assert_eq!(
        run(&LaunchConfig { cluster: [17, 1, 1], grid: [17, 1, 1], ..ok.clone() }, &[0]),
        Err(FaultKind::InvalidLaunch)
    );
    assert_eq!(run(&LaunchConfig { cluster: [2, 1, 1], grid: [4, 1, 1], ..ok.clone() }, &[0]), Ok(()));
    assert_eq!(
        run(&LaunchConfig { cooperative: true, grid: [1 << 20, 1, 1], ..ok }, &[0]),
        Err(FaultKind::OutOfResources)
    );
}

/// A text whose pieces are shuffled, cut and repeated.
const SEED_TEXT: &str = ".visible .entry k(.param .u64 p, .param .align 8 .b8 s[16]) .maxntid 32 {
    .reg .b64 %d<4>; .reg .b32 %r<8>; .reg .pred %p<3>; .shared .align 16 .b8 buf[64]; .local .align 8 .b8 depot[32];
    ld.param.u64 %d1, [p]; cvta.to.global.u64 %d2, %d1; mov.u32 %r1, %tid.x; { .reg .b32 %t; mov.b32 %t, 1; }
    L: setp.ge.s32 %p1|%p2, %r1, 4; @!%p1 bra L; mov.b64 {%r2, %r3}, %d1; st.shared.v2.u32 [buf+8], {%r2, %r3};
    bar.sync 0; shfl.sync.bfly.b32 %r4|%p2, %r1, 1, 31, -1; atom.global.add.u32 %r5, [%d2+-4], 0x10; ret; }";

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn mutated_text_never_crashes(cuts in prop::collection::vec((0usize..2000, 0usize..40, 0u8..128), 1..6)) {
        let mut text = ptx(SEED_TEXT).into_bytes();
        for (at, len, byte) in cuts {
            let at = at % text.len();
            let end = (at + len).min(text.len());
            let piece: Vec<u8> = text[at..end].to_vec();
            match byte % 4 {
                0 => drop(text.drain(at..end)),
                1 => text[at] = byte,
                2 => { let to = (at * 7) % text.len(); text.splice(to..to, piece); }
                _ => text.truncate(end.max(40)),
            }
        }
        let text = String::from_utf8_lossy(&text);
        let mut device = Device::new();
        device.options.instruction_budget = 20_000;
        device.options.workers = 1;
        if let Ok(module) = Module::load(&device.memory, &text, "fuzz.ptx") {
            let p = device.upload(&[0; 256]);
            for f in module.functions() {
                let params = vec![p as u8; f.param_bytes];
                let _ = simcuda::machine::launch(&device.memory, f, &shape(2, 32), &params, &device.options);
            }
        }
    }

    #[test]
    fn random_bytes_never_crash_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let device = Device::new();
        let text = ptx(&String::from_utf8_lossy(&bytes));
        let _ = Module::load(&device.memory, &text, "fuzz.ptx");
    }
}
