"""In place of the package of that name, of which lm-evaluation-harness needs one function here: documents from a JSON file.
The real one, with what it asks for, is 300 MB. SPDX-License-Identifier: Apache-2.0"""
import json
import pathlib

__version__ = "5.2.0"


class Dataset(list):
    @property
    def features(self):
        return dict.fromkeys(self[0])


class DownloadMode:
    pass


def load_dataset(path, name=None, data_files=None, **_):
    assert path == "json" and data_files, "only files of JSON documents"
    return {split: Dataset(json.loads(pathlib.Path(file).read_text())) for split, file in data_files.items()}
