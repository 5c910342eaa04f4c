//! How many registers a kernel is taken to have where no machine code says it, and text as other compilers write it.

mod device;
use device::{Device, ptx, shape};

/// A kernel that loads so many words before it adds them, from the last to the first.
fn live(count: usize, directives: &str) -> String {
    let loads: String = (0..count).map(|n| format!("ld.global.u32 %v{n}, [%p+{}];\n", 4 * n)).collect();
    let sums: String = (0..count).rev().map(|n| format!("add.u32 %s, %s, %v{n};\n")).collect();
    ptx(&format!(
        ".visible .entry k(.param .u64 p, .param .u64 o) {directives} {{
            .reg .b64 %p, %o; .reg .b32 %v<{count}>, %s, %t;
            ld.param.u64 %p, [p]; ld.param.u64 %o, [o]; mov.u32 %t, %tid.x; mad.wide.u32 %o, %t, 4, %o; mov.u32 %s, %t;
            {loads} {sums} st.global.u32 [%o], %s; ret; }}"
    ))
}

#[test]
fn estimates_end_where_a_compiler_would_spill() {
    let device = Device::new();
    for (directives, most) in [
        ("", 255),
        (".maxntid 1024", 64),
        (".maxntid 32, 8", 255),
        (".maxntid 256\n.minnctapersm 4", 64),
        (".reqntid 512", 128),
        (".maxnreg 40", 40),
    ] {
        let kernel = device.kernel(&live(300, directives));
        assert_eq!(kernel.registers, most, "{directives}");
        assert!((300..310).contains(&(kernel.registers + kernel.spilled_registers)), "{directives}");
    }
    let small = device.kernel(&live(20, ".maxntid 1024"));
    assert!(small.registers < 30 && small.spilled_registers == 0, "{}", small.registers);
    // It runs with all the threads that it asks for.
    let kernel = device.kernel(&live(300, ".maxntid 1024"));
    let (input, output) = (device.words(&[1; 300]), device.words(&[0; 1024]));
    let report = device.run(&kernel, &shape(1, 1024), &[input, output]).unwrap_or_else(|f| panic!("{f}"));
    assert_eq!((report.registers, report.spilled_registers), (kernel.registers, kernel.spilled_registers));
    assert_eq!(device.read_words(output, 1024)[1023], 1323);
}

#[test]
fn text_without_blanks_and_with_cache_sizes_matches_the_usual_spelling() {
    let device = Device::new();
    let kernel = device.kernel(&ptx(".visible .entry k(.param.u64 p,.param.u64.ptr.global.align 4 o){
            .reg.b32 f,%r<3>;.reg.b64 x,y;.shared.align 16 .b8 buf[64];
            ld.param.u64 x,[p];ld.param.u64 y,[o];
            ld.global.L1::no_allocate.L2::128B.b32 f,[x];ld.global.L2::64B.u32 %r1,[x+4];
            add.u32 f,f,%r1;st.global.b32 [y],f;ret;}"));
    let (input, output) = (device.words(&[40, 2]), device.words(&[0]));
    device.run(&kernel, &shape(1, 1), &[input, output]).unwrap_or_else(|f| panic!("{f}"));
    assert_eq!(device.read_words(output, 1), [42]);
}
