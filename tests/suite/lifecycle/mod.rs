//! From the first start to the last signal: what an operator sees of the program's life.

mod commands;
mod demo;
mod drain;
mod first_start;
mod shutdown;
mod supervision;
mod waiting;
