//! What documents and comments say of the repository's files is so.

mod cited_paths;
mod counted_files;
mod links;
mod program_lines;
mod tree;
