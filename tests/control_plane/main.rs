//! The control plane: what agents say to NanoCtrl and Redis, and the NanoCtrl server and its
//! command line. And the documents, whose commands are asked of the programs.

mod nanoctrl;

mod columns;
mod console;
mod contract;
mod doctor;
mod documents;
mod entities;
mod folders;
mod host;
mod https;
mod login;
mod many_agents;
mod nanoctrl_cli;
mod nanoctrl_http;
mod nanoctrl_listing;
mod obs;
mod outages;
mod redis;
mod tls;
mod token;
mod top;
