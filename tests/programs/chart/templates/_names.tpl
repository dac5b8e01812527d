{{- define "thirty.labels" -}}
app.kubernetes.io/name: thirty
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
{{- define "thirty.pod" -}}
terminationGracePeriodSeconds: 0
containers:
  - name: main
    image: {{ .Values.images.shell }}
    command: ["sh", "-c", "exec sleep 1000000"]
{{- end }}
