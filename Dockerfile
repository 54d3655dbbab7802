FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/holdgate
COPY requirements.lock ./
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY loadtest loadtest
COPY gen gen
# The lock only constrains here: what is for development stays out of the image.
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && /opt/holdgate/bin/pip install --no-cache-dir --constraint requirements.lock /wheels/*.whl

FROM python:3.11-slim
RUN useradd --system --user-group --create-home --home-dir /var/lib/holdgate holdgate
COPY --from=build /opt/holdgate /opt/holdgate
COPY policies /etc/holdgate/policies
ENV PATH=/opt/holdgate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOLDGATE_LISTEN=0.0.0.0:50051 \
    HOLDGATE_POLICIES=/etc/holdgate/policies \
    HOLDGATE_DATA_DIR=/var/lib/holdgate/data
USER holdgate
WORKDIR /var/lib/holdgate
VOLUME /var/lib/holdgate
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["holdgate", "health"]
ENTRYPOINT ["holdgate", "serve"]
