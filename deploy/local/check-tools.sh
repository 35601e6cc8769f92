#!/bin/sh
# Says in one line each which tool is missing or of the wrong version, and how to get it.
# Usage: check-tools.sh PYTHON
set -u
python=${1:-python3.11}
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
status=0

lacks() {
    printf '%s\n' "$1" >&2
    status=1
}

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
if [ "$version" != 3.11 ]; then
    lacks "Python 3.11 is needed, '$python' is ${version:-missing}: install it (Debian: apt install python3.11 python3.11-venv; macOS: brew install python@3.11; or pyenv install 3.11), or name it: make PYTHON=/path/to/python3.11"
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    lacks "Python 3.11 lacks its venv module: install it (Debian: apt install python3.11-venv)"
fi

version=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
case $version in
11 | 17) ;;
*) lacks "Java 11 or 17 is needed, '$java' is ${version:-missing}: install it (Debian: apt install openjdk-17-jdk-headless; macOS: brew install openjdk@17) and let JAVA_HOME point to it" ;;
esac

# Colours off: "Apache Maven 3.8.7" may come in bold.
version=$(mvn --batch-mode --version 2>/dev/null | sed -n 's/.*Apache Maven \([0-9.]*\).*/\1/p' | head -n 1)
case $version in
[4-9]* | 3.[3-9]* | 3.[12][0-9]* | 3.2.[5-9]* | 3.2.[1-9][0-9]*) ;;
*) lacks "Maven 3.2.5 or newer is needed, 'mvn' is ${version:-missing or does not start}: install it (Debian: apt install maven; macOS: brew install maven)" ;;
esac
exit $status
