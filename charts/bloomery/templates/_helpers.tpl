{{- define "bloomery.name" -}}
{{- if contains "bloomery" .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-bloomery" .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- /* Labels of a part; call with (list . "operator"). */ -}}
{{- define "bloomery.selector" -}}
app.kubernetes.io/name: bloomery
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "bloomery.labels" -}}
{{ include "bloomery.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version }}
{{- end }}

{{- /* The full name of an image; call with (list . "operator"). */ -}}
{{- define "bloomery.image" -}}
{{- $images := (index . 0).Values.images -}}
{{- $name := index $images (index . 1) -}}
{{- if contains "/" $name -}}
{{ $name }}
{{- else -}}
{{ printf "%s/%s:%s" $images.registry $name ($images.tag | default (index . 0).Chart.AppVersion) }}
{{- end -}}
{{- end }}

{{- /* What every pod has, so that namespaces may enforce the restricted Pod Security Standard. */ -}}
{{- define "bloomery.pod" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "bloomery.container" -}}
imagePullPolicy: {{ .Values.images.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "bloomery.storage.bucket" -}}
{{- if not (hasPrefix "s3://" .Values.storage.uri) }}{{ fail "storage.uri must begin with s3://, as in s3://bloomery" }}{{ end -}}
{{ .Values.storage.uri | trimPrefix "s3://" | splitList "/" | first }}
{{- end }}

{{- define "bloomery.storage.endpoint" -}}
{{- if .Values.storage.bundled -}}
http://{{ include "bloomery.name" . }}-storage.{{ .Release.Namespace }}.svc:7070
{{- else -}}
{{ .Values.storage.endpoint }}
{{- end -}}
{{- end }}

{{- /* The Secret in the release's namespace that MLflow and the bucket's Job read. */ -}}
{{- define "bloomery.storage.ownSecret" -}}
{{- .Values.storage.existingSecret | default (printf "%s-storage-keys" (include "bloomery.name" .)) -}}
{{- end }}

{{- define "bloomery.mlflow.uri" -}}
{{- if .Values.mlflow.bundled -}}
http://{{ include "bloomery.name" . }}-mlflow.{{ .Release.Namespace }}.svc:5000
{{- else -}}
{{ required "mlflow.trackingUri must be set where mlflow.bundled is false" .Values.mlflow.trackingUri }}
{{- end -}}
{{- end }}

{{- /* Whether MLflow's database is the file on a volume. */ -}}
{{- define "bloomery.mlflow.sqlite" -}}
{{- if not (or .Values.mlflow.backendStoreUri .Values.mlflow.backendStoreSecret.name) }}yes{{ end -}}
{{- end }}

{{- define "bloomery.gateway.name" -}}
{{- if .Values.gateway.create -}}
{{ .Values.gateway.name | default (include "bloomery.name" .) }}
{{- else -}}
{{ .Values.gateway.name }}
{{- end -}}
{{- end }}

{{- define "bloomery.gateway.namespace" -}}
{{- if or .Values.gateway.create .Values.gateway.name -}}
{{ .Values.gateway.namespace | default .Release.Namespace }}
{{- end -}}
{{- end }}
