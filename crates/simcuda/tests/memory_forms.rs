//! Loads and stores of every width and space, variables, parameters, and what the meter counts of them.

mod device;
use device::{Device, ptx, shape};
use simcuda::machine::{Class, FaultKind, LaunchConfig, Report};

/// Runs a body over `%in` and `%out` (each thread's 32 bytes) with scratch of every space.
fn run(body: &str, config: &LaunchConfig, input: &[u8], out_bytes: usize) -> (Vec<u8>, Report) {
    let device = Device::new();
    let text = ptx(&format!(
        ".extern .shared .align 16 .b8 dynamic[];
        .visible .entry k(.param .u64 pin, .param .u64 pout) {{
            .reg .b64 %in, %out, %x, %g, %sp; .reg .b32 %t, %s, %i; .reg .pred %p;
            .reg .b16 %h<9>; .reg .b32 %r<9>; .reg .b64 %d<5>;
            .local .align 16 .b8 depot[64]; .shared .align 16 .b8 buf[2048];
            ld.param.u64 %in, [pin]; ld.param.u64 %out, [pout]; mov.u32 %t, %tid.x;
            mul.wide.u32 %x, %t, 32; add.s64 %in, %in, %x; add.s64 %out, %out, %x;
            mov.u32 %s, buf; mad.lo.u32 %s, %t, 32, %s; mov.u64 %sp, depot;
            {body} ret; }}"
    ));
    let (a, d) = (device.upload(input), device.upload(&vec![0; out_bytes]));
    let report = device.run(&device.kernel(&text), config, &[a, d]).unwrap_or_else(|f| panic!("{f}\n{body}"));
    (device.download(d, out_bytes), report)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 37 + 11) as u8).collect()
}

#[test]
fn every_width_and_vector_round_trips_through_every_space() {
    let input = pattern(32 * 32);
    let names = |letter: char, n: usize| (0..n).map(|i| format!("%{letter}{i}")).collect::<Vec<_>>().join(", ");
    for (bits, letter) in [(8, 'r'), (16, 'h'), (32, 'r'), (64, 'd')] {
        for count in [1usize, 2, 4] {
            if bits * count > 128 {
                continue;
            }
            let (vector, list) = match count {
                1 => (String::new(), names(letter, 1)),
                n => (format!(".v{n}"), format!("{{{}}}", names(letter, n))),
            };
            let ty = format!("{vector}.b{bits}");
            let generic = format!("cvta.shared.u64 %g, %x; st{ty} [%g], {list}; ld{ty} {list}, [%g];");
            let ways = [
                String::new(),
                format!("st.shared{ty} [%s], {list}; ld.shared{ty} {list}, [%s];"),
                format!("st.local{ty} [%sp+16], {list}; ld.local{ty} {list}, [%sp+16];"),
                format!("cvt.u64.u32 %x, %s; {generic}"),
                format!("cvta.local.u64 %g, %sp; st{ty} [%g], {list}; ld{ty} {list}, [%g];"),
                format!("cvt.u64.u32 %x, %s; st.shared{ty} [%x], {list}; ld.volatile.shared{ty} {list}, [%x];"),
            ];
            for way in ways {
                for threads in [32, 20] {
                    let body = format!("ld.global{ty} {list}, [%in]; {way} st{ty} [%out], {list};");
                    let (out, _) = run(&body, &shape(1, threads), &input, 32 * 32);
                    let bytes = bits * count / 8;
                    for thread in 0..32 {
                        let at = 32 * thread..32 * thread + bytes;
                        let expected = if thread < threads as usize { &input[at.clone()] } else { &vec![0; bytes][..] };
                        assert_eq!(&out[at], expected, "{body}");
                    }
                }
            }
        }
    }
}

#[test]
fn contiguous_vectors_match_the_bytes_they_load() {
    // Rows of 16, 8, 4, 2 and 1 bytes per lane one behind the other take the fast way.
    let input = pattern(32 * 32);
    for (ty, list, bytes) in [
        (".v4.b32", "{%r0, %r1, %r2, %r3}", 16),
        (".v2.b32", "{%r0, %r1}", 8),
        (".v2.b64", "{%d0, %d1}", 16),
        (".b64", "%d0", 8),
        (".b32", "%r0", 4),
        (".b16", "%h0", 2),
        (".b8", "%r0", 1),
    ] {
        let step = 32 - bytes;
        let body = format!(
            "mul.wide.u32 %x, %t, {step}; sub.s64 %in, %in, %x; sub.s64 %out, %out, %x; mul.lo.u32 %i, %t, {step}; sub.u32 %s, %s, %i;
             ld.global.nc{ty} {list}, [%in]; st.shared{ty} [%s], {list}; ld.shared{ty} {list}, [%s]; st.global{ty} [%out], {list};"
        );
        let (out, _) = run(&body, &shape(1, 32), &input, 32 * 32);
        assert_eq!(out[..32 * bytes], input[..32 * bytes], "{ty}");
    }
}

#[test]
fn narrow_loads_extend_into_wider_registers() {
    let input = [0x80u8; 32];
    let word = |body: &str| {
        let (out, _) = run(&format!("{body} st.global.b64 [%out], %d0;"), &shape(1, 1), &input, 32);
        u64::from_le_bytes(out[..8].try_into().expect("8"))
    };
    assert_eq!(word("ld.global.s8 %r0, [%in]; cvt.u64.u32 %d0, %r0;"), 0xffff_ff80);
    assert_eq!(word("ld.global.u8 %d0, [%in];"), 0x80);
    assert_eq!(word("ld.global.s8 %d0, [%in];"), 0xffff_ffff_ffff_ff80);
    assert_eq!(word("ld.global.s16 %d0, [%in];"), 0xffff_ffff_ffff_8080);
    assert_eq!(word("ld.global.s32 %d0, [%in];"), 0xffff_ffff_8080_8080);
    assert_eq!(word("ld.global.u32 %d0, [%in];"), 0x8080_8080);
    assert_eq!(
        word(
            "ld.global.b64 %d1, [%in]; mov.u64 %d0, 0; st.global.b64 [%out], %d0; st.global.b16 [%out], %d1; ld.global.b64 %d0, [%out];"
        ),
        0x8080
    );
}

#[test]
fn module_variables_match_their_initialisers() {
    let device = Device::new();
    let module = device.load(&ptx(
        ".visible .global .align 4 .b8 table[8] = {1, 2, 3, 4, 5, 6, 7, 8};
         .visible .const .align 4 .f32 scale[2] = {0f3F800000, 2.5};
         .visible .global .align 8 .u64 pointer = generic(table)+4;
         .visible .entry k(.param .u64 out, .param .align 4 .b8 pair[8]) {
            .reg .b64 %o, %p, %q; .reg .b32 %r<4>; .reg .f32 %f;
            ld.param.u64 %o, [out]; ld.global.u64 %p, [pointer]; ld.u32 %r0, [%p]; st.global.u32 [%o], %r0;
            ld.const.f32 %f, [scale+4]; st.global.f32 [%o+4], %f; mov.b64 %q, pair;
            ld.param.u32 %r1, [%q+4]; ld.param.u32 %r2, [pair]; sub.u32 %r1, %r1, %r2; st.global.u32 [%o+8], %r1; ret; }",
    ));
    let (table, size) = module.global("table").expect("declared");
    assert_eq!((device.download(table, 8), size), ((1..=8).collect(), 8));
    assert_eq!(module.global("nothing"), None);
    let f = module.function("k").expect("declared");
    assert_eq!((f.param_bytes, f.params[1].offset_bytes, f.params[1].size_bytes, f.const_bytes), (16, 8, 8, 8));
    let out = device.words(&[0; 4]);
    device.run(&f, &shape(1, 1), &[out, 30 << 32 | 7]).unwrap_or_else(|fault| panic!("{fault}"));
    let words = device.read_words(out, 3);
    assert_eq!(words, [0x0807_0605, 2.5f32.to_bits(), 23]);
    let before = device.memory.info().0;
    drop((module, f));
    assert!(device.memory.info().0 > before, "variables are freed with the last who needs them");
}

#[test]
fn dynamic_shared_memory_lies_behind_the_static() {
    let body = "mov.u32 %r0, dynamic; mad.lo.u32 %r1, %t, 4, %r0; st.shared.u32 [%r1], %t; ld.shared.u32 %r2, [%r1];
                mov.u32 %r3, %dynamic_smem_size; add.u32 %r2, %r2, %r3; st.global.u32 [%out], %r2; st.global.u32 [%out+4], %r0;";
    let config = LaunchConfig { dynamic_shared_bytes: 128, ..shape(1, 32) };
    let (out, report) = run(body, &config, &pattern(32 * 32), 32 * 32);
    let word = |at: usize| u32::from_le_bytes(out[at..at + 4].try_into().expect("4"));
    assert_eq!((word(32 * 5), word(4)), (128 + 5, 2048));
    assert_eq!(report.shared_bytes, 2048 + 128);
}

#[test]
fn the_meter_counts_sectors_and_bank_conflicts() {
    let input = pattern(32 * 32);
    let report = |body: &str| run(body, &shape(1, 32), &input, 32 * 32).1;
    // 32 bytes apart: a sector each. In one run: four. All the same: one.
    assert_eq!(report("ld.global.u32 %r0, [%in];").global_load_sectors, 32);
    let run4 = "mul.wide.u32 %x, %t, 28; sub.s64 %in, %in, %x; ld.global.u32 %r0, [%in];";
    let counted = report(run4);
    assert_eq!((counted.global_load_sectors, counted.global_load_bytes), (4, 128));
    assert_eq!(report("ld.param.u64 %in, [pin]; ld.global.u32 %r0, [%in];").global_load_sectors, 1);
    // A gather in descending and interleaved order counts each sector once.
    let reversed = "mul.wide.u32 %x, %t, 36; sub.s64 %in, %in, %x; ld.global.u32 %r0, [%in+124];";
    assert_eq!(report(reversed).global_load_sectors, 4);
    let interleaved = "xor.b32 %i, %t, 21; mul.wide.u32 %x, %i, 4; ld.param.u64 %in, [pin]; add.s64 %in, %in, %x; ld.global.u32 %r0, [%in];";
    assert_eq!(report(interleaved).global_load_sectors, 4);
    assert_eq!(report("st.global.u32 [%out], %t;").global_store_sectors, 32);
    // Rows of 32 bytes: eight words apart, so eight lanes share a bank.
    assert_eq!(report("st.shared.u32 [%s], %t;").shared_bank_conflicts, 7);
    let unit = "mul.lo.u32 %i, %t, 28; sub.u32 %s, %s, %i; st.shared.u32 [%s], %t;";
    assert_eq!(report(unit).shared_bank_conflicts, 0);
    let broadcast =
        "mov.u32 %s, buf; setp.eq.u32 %p, %t, 0; @%p st.shared.u32 [%s], 1; bar.warp.sync -1; ld.shared.u32 %r0, [%s];";
    assert_eq!(report(broadcast).shared_bank_conflicts, 0);
    // 16-byte accesses 32 bytes apart: each quarter of the warp meets every bank twice.
    assert_eq!(report("st.shared.v4.u32 [%s], {%t, %t, %t, %t};").shared_bank_conflicts, 4);
    let classes = report("ld.global.u32 %r0, [%in]; add.u32 %r0, %r0, 1; st.global.u32 [%out], %r0;");
    assert_eq!((classes.class(Class::Global), classes.class(Class::Tensor)), (2, 0));
    assert!(classes.registers > 0 && classes.to_json().contains("\"global_store_sectors\":32"));
}

#[test]
fn device_assertions_name_their_text() {
    let device = Device::new();
    let f = device.kernel(&ptx(
        ".extern .func __assertfail(.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e) .noreturn;
         .global .align 1 .b8 text[6] = {120, 32, 62, 32, 51, 0}; .global .align 1 .b8 file[5] = {97, 46, 99, 117, 0};
         .entry k() { .reg .b64 %p; .reg .pred %q; .reg .b32 %t; mov.u32 %t, %tid.x; setp.ne.u32 %q, %t, 3; @%q bra END;
         { .param .b64 a; .param .b64 b; .param .b32 c; .param .b64 d; .param .b64 e;
           mov.u64 %p, text; cvta.global.u64 %p, %p; st.param.b64 [a], %p; mov.u64 %p, file; st.param.b64 [b], %p;
           st.param.b32 [c], 12; st.param.b64 [d], %p; st.param.b64 [e], 1; call.uni __assertfail, (a, b, c, d, e); }
         END: ret; }",
    ));
    let fault = device.run(&f, &shape(1, 32), &[]).expect_err("asserts");
    assert_eq!((fault.kind, fault.thread[0]), (FaultKind::Assert, 3));
    assert_eq!(fault.message, "a.cu:12: assertion `x > 3` failed");
}

#[test]
fn the_same_holds_without_avx2() {
    device::rerun_portable("the_same_holds_without_avx2");
}
