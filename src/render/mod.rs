//! Text that other programs parse: unit files and environment files.
//!
//! Pure. Whatever a tenant wrote reaches such a text through [`escape`] or [`env`], so that it
//! arrives byte for byte and can't break out.

mod arguments;
pub mod env;
pub mod escape;
pub mod names;
pub mod unit;

pub use env::{Environment, InvalidValue};
pub use names::RunFiles;
pub use unit::{HostFacts, ProcessSpec, RenderError, RenderedUnit, TemplateSources, Templates};
