"""Makes all_types.gguf with the `gguf` package: every metadata type and three tensors."""
import pathlib, sys
from importlib.metadata import version
import numpy as np
import gguf

here = pathlib.Path(__file__).parent
w = gguf.GGUFWriter(here / "all_types.gguf", "llama")
w.add_uint8("t.u8", 255)
w.add_int8("t.i8", -128)
w.add_uint16("t.u16", 65535)
w.add_int16("t.i16", -32768)
w.add_uint32("t.u32", 4294967295)
w.add_int32("t.i32", -2147483648)
w.add_float32("t.f32", 0.1)
w.add_bool("t.true", True)
w.add_bool("t.false", False)
w.add_string("t.string", "gr\u00fc\u00df dich")
w.add_uint64("t.u64", 18446744073709551615)
w.add_int64("t.i64", -9223372036854775808)
w.add_float64("t.f64", 0.1)
w.add_array("t.strings", ["", "a", "\u0120the"])
w.add_array("t.ints", [-1, 0, 7])
w.add_array("t.floats", [0.5, -2.0])
w.add_array("t.bools", [True, False])
w.add_tensor("a", np.arange(6, dtype=np.float32).reshape(2, 3))
w.add_tensor("half", np.array([1.5, -2.0], dtype=np.float16))
q = gguf.quants.quantize(np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32), gguf.GGMLQuantizationType.Q8_0)
w.add_tensor("q", q, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
(here / "versions.txt").write_text(f"python {sys.version.split()[0]}\ngguf {version('gguf')}\n")
