"""Generated protobuf code and the bytes of rows and plans live here and nowhere else."""
