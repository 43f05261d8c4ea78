//! The cases, one module for each method or extension, one function for each row of the table.

mod apply;
mod collect;
mod control;
mod crash;
mod delete;
mod discover;
mod drift;
mod events;
mod exec;
mod factory;
mod handle;
mod health;
mod info;
mod logs;
mod methods;
mod observe;
mod plan;
mod probe;
mod recover;
mod redact;
mod schema;
mod shutdown;
mod validate;

use crate::runner::{Case, CaseInfo};

macro_rules! list {
    ([] $($group:ident { $($name:ident: $behavior:literal,)* })*) => {
        /// All cases, in the order of the table.
        pub(crate) const CASES: &[Case] = &[$($(
            Case {
                info: CaseInfo {
                    group: stringify!($group),
                    name: stringify!($name),
                    behavior: $behavior,
                },
                run: |trial| Box::pin($group::$name(trial)),
            },
        )*)*];
    };
}

crate::__table! { [list] }
