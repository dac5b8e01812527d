//! Columns that many kinds have, and short ways to say a column.

use serde_json::Value;

use crate::kinds::def::Col;
use crate::print;

/// What a kind without columns of its own shows.
pub const NAME_AGE: &[Col] = &[NAME, AGE];
/// What upstream shows of kinds for which it has no printer.
pub const NAME_CREATED: &[Col] = &[
    NAME,
    Col {
        name: "Created At",
        ty: "date",
        format: "",
        priority: 0,
        cell: created,
    },
];

pub const NAME: Col = Col {
    name: "Name",
    ty: "string",
    format: "name",
    priority: 0,
    cell: print::name,
};
pub const AGE: Col = col("Age", "string", print::age);

fn created(obj: &Value, _now: i64) -> Value {
    print::text(obj, "/metadata/creationTimestamp").into()
}

/// A column that is always shown.
pub const fn col(name: &'static str, ty: &'static str, cell: fn(&Value, i64) -> Value) -> Col {
    Col {
        name,
        ty,
        format: "",
        priority: 0,
        cell,
    }
}

/// A column of `-o wide`.
pub const fn wide(name: &'static str, cell: fn(&Value, i64) -> Value) -> Col {
    Col {
        name,
        ty: "string",
        format: "",
        priority: 1,
        cell,
    }
}

/// A column that shows the text at a pointer, or a word when it is absent.
macro_rules! text_col {
    ($name:literal, $pointer:literal) => {
        $crate::kinds::columns::cells::col($name, "string", |o, _| {
            $crate::print::text(o, $pointer).into()
        })
    };
    ($name:literal, $pointer:literal, $none:literal) => {
        $crate::kinds::columns::cells::col($name, "string", |o, _| {
            $crate::print::text_or(o, $pointer, $none).into()
        })
    };
}
/// A column that shows the whole number at a pointer.
macro_rules! int_col {
    ($name:literal, $pointer:literal) => {
        int_col!($name, "integer", $pointer)
    };
    ($name:literal, $ty:literal, $pointer:literal) => {
        $crate::kinds::columns::cells::col($name, $ty, |o, _| {
            $crate::print::int(o, $pointer).into()
        })
    };
}
/// A column that shows the length of a list.
macro_rules! len_col {
    ($name:literal, $pointer:literal) => {
        $crate::kinds::columns::cells::col($name, "integer", |o, _| {
            $crate::print::list(o, $pointer).len().into()
        })
    };
}
/// A column of `-o wide` that shows the text at a pointer, or a word.
macro_rules! wide_col {
    ($name:literal, $pointer:literal, $none:literal) => {
        $crate::kinds::columns::cells::wide($name, |o, _| {
            $crate::print::text_or(o, $pointer, $none).into()
        })
    };
}
pub(super) use {int_col, len_col, text_col, wide_col};

/// Names and images of the containers of a template, for `-o wide`.
macro_rules! container_cols {
    ($names:ident, $images:ident, $pointer:literal) => {
        pub const $names: Col = wide("Containers", |o, _| {
            print::joined(print::list(o, $pointer), "/name", ",").into()
        });
        pub const $images: Col = wide("Images", |o, _| {
            print::joined(print::list(o, $pointer), "/image", ",").into()
        });
    };
}
container_cols!(CONTAINERS, IMAGES, "/spec/template/spec/containers");
container_cols!(
    JOB_CONTAINERS,
    JOB_IMAGES,
    "/spec/jobTemplate/spec/template/spec/containers"
);

/// The selector of `spec.selector`, `<none>` when it is empty.
pub const SELECTOR: Col = wide("Selector", |o, _| {
    let shown = print::selector(o.pointer("/spec/selector"));
    if shown.is_empty() {
        "<none>".into()
    } else {
        shown.into()
    }
});
