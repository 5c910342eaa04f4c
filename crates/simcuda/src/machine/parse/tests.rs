use super::ast::{Operand, RegKind};
use super::*;

fn module(body: &str) -> String {
    format!(".version 8.0\n.target sm_80\n.address_size 64\n{body}")
}

#[test]
fn nested_scopes_resolve_their_own_registers_and_labels() {
    let text = module(
        ".visible .entry k(.param .u64 p) {
            .reg .b32 %r<4>; .reg .pred p1;
            mov.u32 %r1, 1;
            { .reg .b32 %r1; W: mov.u32 %r1, 2; @!p1 bra W; bra END; }
            { .reg .b32 %r1; W: mov.u32 %r1, 3; bra W; }
            END: ret; }",
    );
    let ast = parse(&text).expect("valid");
    let func = &ast.funcs[0];
    let dst = |i: usize| func.body[i].args[0].clone();
    assert_eq!((dst(0), dst(1), dst(4)), (Operand::Reg(1), Operand::Reg(5), Operand::Reg(6)));
    assert_eq!(func.body[2].guard, Some((4, true)));
    let target = |i: usize| match func.body[i].args[0] {
        Operand::Label(id) => func.labels[id as usize],
        ref other => panic!("expected a label, got {other:?}"),
    };
    assert_eq!([target(2), target(3), target(5)], [1, 6, 4]);
    assert_eq!(func.regs[4], RegKind::Pred);
}

#[test]
fn declarations_keep_size_alignment_and_values() {
    let text = module(
        ".global .align 8 .u64 ptrs[2] = {generic(table)+4, 0};
         .const .align 4 .b8 table[8] = {1, 2, 255};
         .extern .shared .align 16 .b8 smem[];
         .entry k(.param .align 8 .b8 s[24], .param .u64 .ptr .global .align 16 q) .maxntid 64, 2 { ret; }",
    );
    let ast = parse(&text).expect("valid");
    let sizes: Vec<_> = ast.vars.iter().map(|v| (v.name, v.size_bytes, v.align_bytes, v.is_extern)).collect();
    assert_eq!(sizes, [("ptrs", 16, 8, false), ("table", 8, 4, false), ("smem", 0, 16, true)]);
    assert_eq!(ast.vars[0].init[0], ast::Init::Address("table", 4));
    let func = &ast.funcs[0];
    assert_eq!((func.max_threads, func.params[0].size_bytes, func.params[1].size_bytes), (Some(128), 24, 8));
}

#[test]
fn source_lines_follow_loc() {
    let text = module(
        ".file 1 \"a.cu\"\n.entry k() {\n .loc 1 7 3\n ret;\n .loc 1 9 1, function_name $L, inlined_at 1 2 3\n exit; }",
    );
    let ast = parse(&text).expect("valid");
    assert_eq!(ast.files[&1], "a.cu");
    let body = &ast.funcs[0].body;
    assert_eq!((body[0].loc, body[0].line, body[1].loc), ((1, 7), 7, (1, 9)));
}

#[test]
fn malformed_text_is_refused_with_its_line() {
    let cases = [
        ("", 1, "`.version`"),
        (".version 8.0\n.target gfx90", 2, "sm_80"),
        (&module(".entry k() {\n bra NOWHERE; }"), 4, "NOWHERE"),
        (&module(".entry k() { add.s32 %r1 }"), 4, "`;`"),
        (&module(".entry k() { @%p1 ret; }"), 4, "predicate"),
        (&module(".entry k() { L: L: ret; }"), 4, "second"),
        (&module(".entry k() { .bogus 3; }"), 4, ".bogus"),
        (&module(".bogus"), 4, ".bogus"),
        (&module(".entry k() { ret;"), 4, "end of the text"),
        (&module(".entry k() { .reg .b32 %r<99999999>; }"), 4, "registers"),
        (&module(".global .b32 x[9223372036854775807];"), 4, "hold"),
    ];
    for (text, line, part) in cases {
        let (at, message) = parse(text).expect_err(text);
        assert_eq!(at, line, "{message}");
        assert!(message.contains(part), "{message}");
    }
}
