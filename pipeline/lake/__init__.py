"""The Parquet data sets of one archive: written exactly once, read by any tool."""
