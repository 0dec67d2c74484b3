"""Writes the conformance cases of the installed onnx package as folders that `ag-compile conform` reads.

cases.py FOLDER: FOLDER/{node,simple,pytorch-converted,pytorch-operator}/NAME/{model.onnx,test_data_set_K/*.pb} and
FOLDER/light/NAME.onnx with its outputs. The node cases are made by the package's own generators; the rest are files
of the package. A folder that is complete (FOLDER/done names the package's version) is left as it is.
"""
import os
import shutil
import sys
import warnings


def as_message(numpy_helper, tensor_type, value, info):
    """A test value as the message that its declared type asks for."""
    import numpy as np

    if isinstance(value, tensor_type):
        return value
    kind = info.type.WhichOneof("value")
    if kind == "map_type":
        return numpy_helper.from_dict(value, info.name)
    if kind == "sequence_type":
        return numpy_helper.from_list(value, info.name)
    if kind == "optional_type":
        return numpy_helper.from_optional(value, info.name)
    return numpy_helper.from_array(np.asarray(value), info.name)


def write_node_cases(folder):
    import numpy as np
    from onnx import TensorProto, numpy_helper
    from onnx.backend.test.case.node import collect_testcases

    warnings.filterwarnings("ignore")
    np.seterr(all="ignore")
    written = 0
    for case in list(collect_testcases(None)):
        place = os.path.join(folder, case.kind, case.name)
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, "model.onnx"), "wb") as out:
            out.write(case.model.SerializeToString())
        graph = case.model.graph
        for k, (inputs, outputs) in enumerate(case.data_sets):
            data = os.path.join(place, f"test_data_set_{k}")
            os.makedirs(data, exist_ok=True)
            for name, values, infos in (("input", inputs, graph.input), ("output", outputs, graph.output)):
                for j, value in enumerate(values):
                    message = as_message(numpy_helper, TensorProto, value, infos[j])
                    with open(os.path.join(data, f"{name}_{j}.pb"), "wb") as out:
                        out.write(message.SerializeToString())
        written += 1
    return written


def main():
    try:
        import onnx
        import onnx.backend.test as suite
    except ImportError:
        print("the onnx package is not installed: no conformance cases")
        return 2
    folder = sys.argv[1]
    stamp = os.path.join(folder, "done")
    if os.path.exists(stamp) and open(stamp).read() == onnx.__version__:
        return 0
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    data = os.path.join(os.path.dirname(suite.__file__), "data")
    for name in ("simple", "pytorch-converted", "pytorch-operator", "light"):
        shutil.copytree(os.path.join(data, name), os.path.join(folder, name))
    print(write_node_cases(folder), "node cases")
    with open(stamp, "w") as out:
        out.write(onnx.__version__)
    return 0


if __name__ == "__main__":
    sys.exit(main())
