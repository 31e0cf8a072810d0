//! Several processes: workers and drivers, the examples that start processes, shared memory between
//! two, and Python.

mod descriptors;
mod limits;
mod model_runner;
mod one_host;
mod python_pickles;
mod shared_memory;
mod tcp_attacks;
mod tcp_fabric;
mod trainer;
mod two_hosts;
mod workers;
