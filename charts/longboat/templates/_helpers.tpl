{{- define "longboat.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of everything that lies in the release's namespace; other names begin with it. */}}
{{- define "longboat.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "longboat.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "longboat.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Cluster-scoped names tell two releases in different namespaces apart. */}}
{{- define "longboat.clusterName" -}}
{{- if eq .Release.Namespace "longboat-system" -}}
{{- include "longboat.fullname" . -}}
{{- else -}}
{{- printf "%s-%s" .Release.Namespace (include "longboat.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "longboat.selectorLabels" -}}
app.kubernetes.io/name: {{ include "longboat.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "longboat.labels" -}}
{{ include "longboat.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "longboat.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "longboat.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "longboat.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "longboat.moverServiceAccountName" -}}
{{- include "longboat.fullname" . }}-mover
{{- end -}}

{{/* What a namespace with pod-security.kubernetes.io/enforce: restricted asks of a pod and of a container. */}}
{{- define "longboat.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "longboat.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
