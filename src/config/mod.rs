//! Configuration: files and environment into one checked `Config`, and the dynamic part in the store into a `Policy`.
//! Nothing here is asked again later: what leaves this module is right, or the agent does not start.

mod check;
mod credentials;
mod customs;
mod dynamic;
mod environment;
mod load;
mod log_format;
mod operator;
mod origins;
mod problem;
pub mod settings;
mod store_types;
mod types;
mod values;
mod whole;
mod yaml;

pub use customs::{Customs, Method, command};
pub use dynamic::*;
pub use environment::is_ours as is_our_variable;
pub use load::*;
pub use log_format::{Attribute, Filling, LogFormat, Part, Parts};
pub use operator::*;
pub use problem::{Problem, Problems};
pub use store_types::*;
pub use types::*;
pub use values::milliseconds;
pub use yaml::{Node, Place, parse as parse_yaml};

#[cfg(test)]
mod reference;
mod replication;
#[cfg(test)]
mod tests;
