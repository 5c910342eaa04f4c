//! Forms that compute each lane from the same lane of their operands.

use std::marker::PhantomData;

use super::undefined::Spread;
use super::{Block, Flow, Inst, Isa, LANES, Lane, Op, Warp};

/// A function of one operand.
pub(crate) trait F1 {
    /// As [`Op::SPREAD`].
    const SPREAD: Spread = Spread::Any;
    type A: Lane;
    type D: Lane;
    fn f(a: Self::A) -> Self::D;
}

/// A function of two operands.
pub(crate) trait F2 {
    /// As [`Op::SPREAD`].
    const SPREAD: Spread = Spread::Any;
    type A: Lane;
    type B: Lane;
    type D: Lane;
    fn f(a: Self::A, b: Self::B) -> Self::D;
}

/// A function of three operands.
pub(crate) trait F3 {
    /// As [`Op::SPREAD`].
    const SPREAD: Spread = Spread::Any;
    type A: Lane;
    type B: Lane;
    type C: Lane;
    type D: Lane;
    fn f(a: Self::A, b: Self::B, c: Self::C) -> Self::D;
}

/// The form of a one-operand function.
pub(crate) struct M1<F>(PhantomData<F>);
/// The form of a two-operand function.
pub(crate) struct M2<F>(PhantomData<F>);
/// The form of a three-operand function.
pub(crate) struct M3<F>(PhantomData<F>);

impl<F: F1> Op for M1<F> {
    const SPREAD: Spread = F::SPREAD;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let a = F::A::read(w, i.a);
        let mut d = [F::D::default(); LANES];
        for lane in 0..LANES {
            d[lane] = F::f(a[lane]);
        }
        F::D::write(w, i.dst, d);
        Flow::Next
    }
}

impl<F: F2> Op for M2<F> {
    const SPREAD: Spread = F::SPREAD;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let (a, b) = (F::A::read(w, i.a), F::B::read(w, i.b));
        let mut d = [F::D::default(); LANES];
        for lane in 0..LANES {
            d[lane] = F::f(a[lane], b[lane]);
        }
        F::D::write(w, i.dst, d);
        Flow::Next
    }
}

impl<F: F3> Op for M3<F> {
    const SPREAD: Spread = F::SPREAD;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let (a, b, c) = (F::A::read(w, i.a), F::B::read(w, i.b), F::C::read(w, i.c));
        let mut d = [F::D::default(); LANES];
        for lane in 0..LANES {
            d[lane] = F::f(a[lane], b[lane], c[lane]);
        }
        F::D::write(w, i.dst, d);
        Flow::Next
    }
}

/// Declares functions over lanes: `Name<generics>(a: A, b: B) -> D = expression;`, with `, spread` behind the expression for those
/// whose [`Spread`] is another than that of most.
macro_rules! lanewise {
    () => {};
    ($name:ident<$($g:ident: $bound:path),*>($a:ident: $at:ty) -> $d:ty = $e:expr $(, $spread:expr)?; $($rest:tt)*) => {
        pub(crate) struct $name<$($g),*>(std::marker::PhantomData<($($g,)*)>);
        impl<$($g: $bound),*> $crate::machine::exec::lanewise::F1 for $name<$($g),*> {
            $(const SPREAD: $crate::machine::exec::undefined::Spread = $spread;)?
            type A = $at;
            type D = $d;
            #[inline(always)]
            fn f($a: $at) -> $d { $e }
        }
        $crate::machine::exec::lanewise::lanewise! { $($rest)* }
    };
    ($name:ident<$($g:ident: $bound:path),*>($a:ident: $at:ty, $b:ident: $bt:ty) -> $d:ty = $e:expr $(, $spread:expr)?; $($rest:tt)*) => {
        pub(crate) struct $name<$($g),*>(std::marker::PhantomData<($($g,)*)>);
        impl<$($g: $bound),*> $crate::machine::exec::lanewise::F2 for $name<$($g),*> {
            $(const SPREAD: $crate::machine::exec::undefined::Spread = $spread;)?
            type A = $at;
            type B = $bt;
            type D = $d;
            #[inline(always)]
            fn f($a: $at, $b: $bt) -> $d { $e }
        }
        $crate::machine::exec::lanewise::lanewise! { $($rest)* }
    };
    ($name:ident<$($g:ident: $bound:path),*>($a:ident: $at:ty, $b:ident: $bt:ty, $c:ident: $ct:ty) -> $d:ty = $e:expr
     $(, $spread:expr)?; $($rest:tt)*) => {
        pub(crate) struct $name<$($g),*>(std::marker::PhantomData<($($g,)*)>);
        impl<$($g: $bound),*> $crate::machine::exec::lanewise::F3 for $name<$($g),*> {
            $(const SPREAD: $crate::machine::exec::undefined::Spread = $spread;)?
            type A = $at;
            type B = $bt;
            type C = $ct;
            type D = $d;
            #[inline(always)]
            fn f($a: $at, $b: $bt, $c: $ct) -> $d { $e }
        }
        $crate::machine::exec::lanewise::lanewise! { $($rest)* }
    };
}
pub(crate) use lanewise;
