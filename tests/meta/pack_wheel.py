"""pack_wheel.py DIRECTORY: a wheel as setup.py makes it, of the modules and the program that are built in place, with
nothing compiled. Run in the checkout."""

import runpy
import shutil
import sys
from pathlib import Path

import Cython.Build
import setuptools

place = sys.argv[1]
whole_setup = setuptools.setup


def modules_of(extensions, **_options):
    """One Extension for each source that its patterns name, as cythonize returns them."""
    sources = sorted({path for extension in extensions for pattern in extension.sources
                      for path in Path().glob(pattern)})
    return [setuptools.Extension(".".join(path.with_suffix("").parts), [str(path)]) for path in sources]


def copy_module(command, extension):
    """In place of compiling it."""
    module = Path(command.get_ext_filename(extension.name))
    target = Path(command.get_ext_fullpath(extension.name))
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(module, target)


def copy_program(_compiler, _sources, program, _force):
    """The same for the one that is no module."""
    program.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(program.relative_to(program.parents[2]), program)


def setup(**keywords):
    """setup.py's own, with these two steps replaced."""
    build = keywords["cmdclass"]["build_ext"]
    build.build_extension = copy_module
    build.run.__globals__["build_program"] = copy_program
    whole_setup(**keywords)


Cython.Build.cythonize = modules_of
setuptools.setup = setup
sys.argv = ["setup.py", "--quiet", "egg_info", "--egg-base", place, "build", "--build-base", f"{place}/build",
            "bdist_wheel", "--bdist-dir", f"{place}/packed", "--dist-dir", place]
runpy.run_path("setup.py", run_name="__main__")
